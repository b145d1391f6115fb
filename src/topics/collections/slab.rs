//! A table whose indices are reused.

/// Values by index.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    values: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab { values: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Number of values.
    pub(crate) fn len(&self) -> usize {
        self.values.len() - self.free.len()
    }

    /// All indices, used and free.
    pub(crate) fn indices(&self) -> std::ops::Range<u32> {
        0..self.values.len() as u32
    }

    /// Adds the value that `make` creates for its index. Returns the index.
    pub(crate) fn insert(&mut self, make: impl FnOnce(u32) -> T) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.values.push(None);
            (self.values.len() - 1) as u32
        });
        self.values[index as usize] = Some(make(index));
        index
    }

    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let value = self.values.get_mut(index as usize)?.take()?;
        self.free.push(index);
        Some(value)
    }

    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        self.values.get(index as usize)?.as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.values.get_mut(index as usize)?.as_mut()
    }

    /// The values from the index `first` on, in order.
    #[inline]
    pub(crate) fn iter(&self, first: u32) -> impl Iterator<Item = (u32, &T)> {
        let values = self.values.get(first as usize..).unwrap_or_default();
        (first..).zip(values).filter_map(|(index, value)| Some((index, value.as_ref()?)))
    }

    /// The same, mutable.
    #[inline]
    pub(crate) fn iter_mut(&mut self, first: u32) -> impl Iterator<Item = (u32, &mut T)> {
        let values = self.values.get_mut(first as usize..).unwrap_or_default();
        (first..).zip(values).filter_map(|(index, value)| Some((index, value.as_mut()?)))
    }
}
