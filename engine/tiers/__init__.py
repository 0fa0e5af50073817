"""Where the vectors of an index lie while they are searched: device, host memory, disk."""
