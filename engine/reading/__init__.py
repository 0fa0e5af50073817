"""Every format that sources come in, read once: docs/decisions/0011-reading.md.

| module | format |
|---|---|
| `json_lines` | `.jsonl`: an object a line |
| `separated` | `.csv`, `.tsv`: a line of column names, a row a line; `column_types` tells numbers from text |
| `parquet` | `.parquet` whose rows name pictures or hold them |
| `tars` | `.tar`: a WebDataset shard |
| `karpathy` | `.json`: `dataset_flickr30k.json`, `dataset_coco.json` |
| `folders` | pictures in folders, one picture |
| `vectors` | `.npy`, `.safetensors`, folders of clip-retrieval |

Each is a stream of `records.Record`s, vectors excepted. `engine.dataset` is strict about the faults of records,
`engine.building` lists them and goes on.
"""
