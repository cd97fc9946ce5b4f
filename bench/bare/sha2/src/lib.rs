//! Digests that are zeros and cost nothing, in place of the crate of this name. For measuring only.

pub trait Digest: Default {
    fn new() -> Self {
        Self::default()
    }

    fn update(&mut self, _data: impl AsRef<[u8]>) {}

    fn finalize(self) -> [u8; 32] {
        [0; 32]
    }
}

#[derive(Default)]
pub struct Sha256;

impl Digest for Sha256 {}
