"""What the files mean and what comes out: values only, no input or output."""
