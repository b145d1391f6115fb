//! A request head that outlives the buffer that it arrived in.

use echoring_proto::handshake::{Refusal, Request, with_fields};

/// A field: its name and its value.
pub(crate) type Field = (Box<str>, Box<[u8]>);

/// A copy of a request head, for a decision that takes longer than the call with the request.
#[derive(Clone, PartialEq, Eq)]
pub struct OwnedHead {
    pub(crate) method: Box<str>,
    pub(crate) target: Box<str>,
    pub(crate) fields: Box<[Field]>,
}

// The fields have credentials in them.
opaque!(OwnedHead, |it| fields: it.fields.len());

impl OwnedHead {
    /// Copies a head.
    pub fn of(request: &Request<'_>) -> OwnedHead {
        OwnedHead {
            method: request.method.into(),
            target: request.target.into(),
            fields: request.fields().map(|(name, value)| (name.into(), value.into())).collect(),
        }
    }

    /// Bytes of the copy, within a few.
    pub fn bytes(&self) -> usize {
        let fields = self.fields.iter().map(|(name, value)| name.len() + value.len() + 32);
        self.method.len() + self.target.len() + fields.sum::<usize>()
    }

    /// Passes the request to `f`.
    ///
    /// # Errors
    /// Never for a head that was parsed once.
    pub fn with<R>(&self, f: impl FnOnce(&Request<'_>) -> R) -> Result<R, Refusal> {
        let fields = self.fields.iter().map(|(name, value)| (&**name, &**value));
        with_fields(&self.method, &self.target, fields, f)
    }
}

#[cfg(test)]
mod tests {
    use echoring_proto::handshake::with_request;

    use super::*;

    #[test]
    fn a_copy_is_read_as_the_original_was() {
        let head = b"GET /a?b=c HTTP/1.1\r\nHost: h:1\r\nX: \xff \r\nx: 2\r\n\r\n";
        let read = |request: &Request<'_>| {
            let fields: Vec<_> =
                request.fields().map(|(name, value)| (name.to_owned(), value.to_vec())).collect();
            (request.path.to_owned(), request.query.to_owned(), request.host.to_owned(), fields)
        };
        let (original, copy) = with_request(head, |request, _| (read(request), OwnedHead::of(request)))
            .expect("valid")
            .expect("complete");
        assert_eq!(copy.with(read).expect("valid"), original);
        assert!(copy.bytes() > 10 && !format!("{copy:?}").contains("/a"));
    }
}
