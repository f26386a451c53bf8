//! Control words of a running TD: what its guest (and, for L2, its L1 VMM) may switch.

use crate::layout::{flags, named_bits_display, word_type};

flags! {
    /// TD_CTLS, written by the guest.
    TdCtls: u64 {
        /// An access to a pending page exits to the VMM instead of giving the guest a #VE.
        0 PENDING_VE_DISABLE,
    }
}

flags! {
    /// NOTIFY_ENABLES, written by the guest.
    NotifyEnables: u64 {
        /// Tell the guest when EPT faults look like single-stepping.
        0 NOTIFY_EPT_FAULTS,
    }
}

flags! {
    /// Controls of one L2 VM.
    VmCtls: u64 {
        0 EPT_VIOLATION_ON_L2_SEPT_WALK_FAILURE,
    }
}

flags! {
    /// Controls of one vCPU's L2 VM.
    L2Ctls: u64 {
        0 ENABLE_SHARED_EPTP,
        1 ENABLE_TDVMCALL,
        2 ENABLE_EXTENDED_VE,
    }
}

flags! {
    /// Debug controls of one vCPU's L2 VM.
    L2DebugCtls: u64 {
        0 TD_EXIT_ON_L1_TO_L2,
        1 TD_EXIT_ON_L2_TO_L1,
        2 TD_EXIT_ON_L2_VM_EXIT,
    }
}

flags! {
    /// Whether CPUID gives a #VE, per leaf.
    CpuidControl: u8 {
        0 SUPERVISOR_VE,
        1 USER_VE,
    }
}
