//! [`Texts`] by their keys, such as the tags of a publication.

/// Texts by their keys, in bytes of the caller, with the function that takes one from the front of them.
#[derive(Clone, Copy, Debug)]
pub struct Texts<'a> {
    bytes: &'a [u8],
    take: TakeText,
}

/// Takes a text with its key from the front of bytes; `None` at their end.
pub type TakeText = for<'b> fn(&mut &'b [u8]) -> Option<(&'b str, &'b str)>;

impl<'a> Texts<'a> {
    /// No texts.
    pub const NONE: Texts<'static> = Texts { bytes: &[], take: |_| None };

    /// The texts in these bytes.
    pub fn new(bytes: &'a [u8], take: TakeText) -> Texts<'a> {
        Texts { bytes, take }
    }

    /// The texts with their keys.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let Texts { mut bytes, take } = self;
        std::iter::from_fn(move || take(&mut bytes))
    }
}

impl PartialEq for Texts<'_> {
    fn eq(&self, other: &Texts<'_>) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Texts<'_> {}
