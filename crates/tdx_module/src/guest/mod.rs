//! The guest side: what a vCPU keeps for metadata, VM exits and TDG.* leaves, and what the module does with them.

pub mod cr;
pub mod initial;
pub mod inject;
pub mod tdvps;
pub mod vmcs;

use crate::xstate::Xbuff;
use alloc::collections::BTreeMap;

/// Fields of TDVPS that only metadata, exits and guest leaves use.
#[derive(Clone, Debug)]
pub struct VpExtra {
    /// Extended state while the vCPU does not run.
    pub xbuff: Xbuff,
    /// VMCS fields that no processor acts on.
    pub vmcs: vmcs::VmcsExtra,
    /// TDVPS fields without a home of their own, by class and field code; a field that is not there is 0.
    pub fields: BTreeMap<(u8, u32), u64>,
    /// CPUID_CONTROL: #VE for a CPUID row, bit 0 at CPL 0, bit 1 above.
    pub cpuid_control: [u8; 128],
    /// The vCPU entered on the processor it is associated with.
    pub entered_here: bool,
    /// The vCPU entered at all.
    pub entered: bool,
}

impl Default for VpExtra {
    fn default() -> Self {
        Self {
            xbuff: Xbuff::new(),
            vmcs: vmcs::VmcsExtra::default(),
            fields: BTreeMap::new(),
            cpuid_control: [0; 128],
            entered_here: false,
            entered: false,
        }
    }
}
