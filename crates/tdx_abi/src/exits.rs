//! What TDH.VP.ENTER returns: the words beside RAX, and the layout of RAX's lower half.

use crate::layout::{named_bits_display, states, word, word_type};

word! {
    /// RAX bits 31:0 on a TD exit: a VMX exit reason.
    TdExitReason: u64 {
        15..0 BASIC_REASON basic_reason with_basic_reason,
        /// A bus lock was detected as well.
        26..26 BUS_LOCK_PREEMPTED bus_lock_preempted with_bus_lock_preempted,
        27..27 ENCLAVE_INTERRUPTION enclave_interruption with_enclave_interruption,
        28..28 PENDING_MTF pending_mtf with_pending_mtf,
        29..29 PARALLEL parallel with_parallel,
        /// The VM entry failed.
        31..31 VMENTER_FAIL vmenter_fail with_vmenter_fail,
    }
}

word! {
    /// RCX on an asynchronous TD exit; after TDG.VP.VMCALL the low half is the mask instead ([`crate::TdvmcallControl`]).
    TdExitQualification: u64 {
        /// Bits 31:0 of the VMX exit qualification.
        31..0 EXIT_QUALIFICATION exit_qualification with_exit_qualification,
        /// The VM that exited: 0 is L1.
        33..32 VM vm with_vm,
    }
}

states! {
    /// What an extended exit qualification is about.
    ExtendedExitQualificationType: u8 {
        None = 0 "NONE",
        /// TDG.MEM.PAGE.ACCEPT could not be done.
        Accept = 1 "ACCEPT",
        /// Details of the GPA.
        GpaDetails = 2 "GPA_DETAILS",
        TdEntryMsrLoadFailure = 3 "TD_ENTRY_MSR_LOAD_FAILURE",
        TdEntryXstateLoadFailure = 4 "TD_ENTRY_XSTATE_LOAD_FAILURE",
        /// TDG.MEM.PAGE.ATTR.WR could not be done.
        AttrWr = 5 "ATTR_WR",
        /// An access to a page that waits for TDG.MEM.PAGE.ACCEPT.
        PendingEptViolation = 6 "PENDING_EPT_VIOLATION",
    }
}

word! {
    /// RDX on an asynchronous TD exit.
    ExtendedExitQualification: u64 {
        3..0 TYPE kind with_kind,
        63..32 INFO info with_info,
    }
}

word! {
    /// INFO of an extended exit qualification of type ACCEPT, GPA_DETAILS or ATTR_WR.
    ExtendedExitInfo: u32 {
        2..0 REQ_SEPT_LEVEL req_sept_level with_req_sept_level,
        5..3 ERR_SEPT_LEVEL err_sept_level with_err_sept_level,
        /// State of the entry, as in `SeptState`.
        13..6 ERR_SEPT_STATE err_sept_state with_err_sept_state,
        14..14 ERR_SEPT_IS_LEAF err_sept_is_leaf with_err_sept_is_leaf,
        21..20 VM_INDEX vm_index with_vm_index,
    }
}

word! {
    /// R13 on an exit from L2 to L1.
    L2ExtendedExitQualification: u64 {
        3..0 TYPE kind with_kind,
    }
}

impl ExtendedExitQualification {
    /// What the word is about; `None` for a type that 1.5.01 does not have.
    pub const fn type_of(self) -> Option<ExtendedExitQualificationType> {
        ExtendedExitQualificationType::from_raw(self.kind() as u8)
    }
    /// INFO as the word it is for types ACCEPT, GPA_DETAILS and ATTR_WR.
    pub const fn sept_info(self) -> ExtendedExitInfo {
        ExtendedExitInfo(self.info() as u32)
    }
}
