//! A `multipart/form-data` body (RFC 7578). The HTTP client's own builder makes only streams, which
//! cannot be replayed and do not pass through the in-process transport.

/// Fields of a form on their way into a body.
pub struct Form {
    boundary: String,
    body: Vec<u8>,
}

impl Form {
    /// `boundary` must not occur in any value; random hex of 128 bits will not.
    pub fn new(boundary: String) -> Self {
        Self { boundary, body: Vec::new() }
    }

    pub fn text(mut self, name: &str, value: &str) -> Self {
        let head = format!("--{}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n", self.boundary);
        self.body.extend_from_slice(head.as_bytes());
        self.body.extend_from_slice(value.as_bytes());
        self.body.extend_from_slice(b"\r\n");
        self
    }

    pub fn file(mut self, name: &str, file_name: &str, content_type: &str, value: &[u8]) -> Self {
        let head = format!(
            "--{}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{file_name}\"\r\nContent-Type: {content_type}\r\n\r\n",
            self.boundary
        );
        self.body.extend_from_slice(head.as_bytes());
        self.body.extend_from_slice(value);
        self.body.extend_from_slice(b"\r\n");
        self
    }

    /// The value of `Content-Type`, and the body.
    pub fn finish(mut self) -> (String, Vec<u8>) {
        self.body.extend_from_slice(format!("--{}--\r\n", self.boundary).as_bytes());
        (format!("multipart/form-data; boundary={}", self.boundary), self.body)
    }
}
