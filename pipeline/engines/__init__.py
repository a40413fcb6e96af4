"""Ways to drive the one worker that makes chunks: in this process, under torchrun, over a range, on Ray."""
