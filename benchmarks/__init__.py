"""Speed and memory beside other tools, measured in one run on the machine at hand."""
