"""Speed and memory compared with other tools, measured in one run on the same machine."""
