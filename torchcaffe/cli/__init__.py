"""The program `torchcaffe`: train, test, time, device_query, run, and Caffe's smaller programs."""
