"""Networks beyond multi-layer perceptrons: a zoo of small CNNs, and what is measured on it and on larger modules."""
