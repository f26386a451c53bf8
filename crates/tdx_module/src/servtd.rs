//! The binding slot of a service TD (spec: host-td.md 7).

use crate::td::Hash384;
use sha2::{Digest, Sha384};

/// State of the one slot.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum BindState {
    #[default]
    NotBound = 0,
    PreBound = 1,
    Bound = 2,
}

/// SERVTD_BINDINGS_TABLE\[0\].
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Binding {
    pub state: BindState,
    /// 0: migration TD.
    pub servtd_type: u16,
    pub attributes: u64,
    pub uuid: [u64; 4],
    pub info_hash: Hash384,
}

impl Binding {
    /// SERVTD_HASH: 0 without a binding, else over what identifies the bound TD (spec: host-td.md 4.2).
    pub fn hash(&self) -> Hash384 {
        if self.state == BindState::NotBound {
            return Hash384::default();
        }
        let mut hash = Sha384::new();
        hash.update(self.info_hash.0);
        hash.update(self.servtd_type.to_le_bytes());
        hash.update(self.attributes.to_le_bytes());
        Hash384(hash.finalize().into())
    }
}
