"""Memories: what a policy keeps of the steps of a trial, by name.

backbone: what a memory is.  recurrent: GRU, LSTM.  scan: minGRU and S5, trained in parallel over
time.  attention: transformer and SNAIL.  slots: a memory-augmented network.  hyper: what is
remembered as weights.  choice: the names.
"""
