"""Choice of engine, real Caffe, several processes, outputs."""
