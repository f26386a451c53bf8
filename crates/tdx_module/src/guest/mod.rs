//! The guest side: what a vCPU keeps for metadata, VM exits and TDG.* leaves.

/// Fields of TDVPS that only metadata, exits and guest leaves use.
#[derive(Clone, Default, Debug)]
pub struct VpExtra {}
