"""What the operating system asks of us: files, forks, threads, the terminal."""
