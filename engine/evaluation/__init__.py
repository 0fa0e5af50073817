"""How well vectors retrieve: recall in both directions, for every way of searching.

pool, _ = encode_pool(encoder, read_dataset("pictures", "style", "test"))
report = evaluate(pool, candidates=[32])
"""

from engine.evaluation.pool import Pool, encode_pool
from engine.evaluation.recall import Recalls
from engine.evaluation.report import Report, Way
from engine.evaluation.run import evaluate

__all__ = ["Pool", "Recalls", "Report", "Way", "encode_pool", "evaluate"]
