//! The binding slot of a service TD (spec: host-td.md 7).

use crate::td::Hash384;

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
