"""The program `torchcaffe`: train, test, time, device_query and Caffe's smaller tools."""
