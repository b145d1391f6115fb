//! The wire formats: frames, masking, UTF-8, the HTTP/1.1 upgrade, close codes. Sans-IO.
