//! States of a TD, its key, its vCPUs and the module (spec: host-td.md, host-platform.md).

use crate::layout::states;

states! {
    /// Operation state of a TD whose keys are configured: what may be done with it.
    OpState: u8 {
        Uninitialized = 0 "UNINITIALIZED",
        Initialized = 1 "INITIALIZED",
        Runnable = 2 "RUNNABLE",
        LiveExport = 3 "LIVE_EXPORT",
        PausedExport = 4 "PAUSED_EXPORT",
        PostExport = 5 "POST_EXPORT",
        MemoryImport = 6 "MEMORY_IMPORT",
        StateImport = 7 "STATE_IMPORT",
        PostImport = 8 "POST_IMPORT",
        LiveImport = 9 "LIVE_IMPORT",
        FailedImport = 10 "FAILED_IMPORT",
    }
}

impl OpState {
    /// A mapping may change only after blocking and TLB tracking.
    pub const fn tlb_tracking_required(self) -> bool {
        matches!(
            self,
            OpState::Runnable | OpState::LiveExport | OpState::LiveImport
        )
    }
    /// TDH.MNG.INIT, or the first step of an import, is done.
    pub const fn any_initialized(self) -> bool {
        matches!(
            self,
            OpState::Initialized
                | OpState::Runnable
                | OpState::LiveExport
                | OpState::PausedExport
                | OpState::PostExport
                | OpState::MemoryImport
                | OpState::StateImport
                | OpState::PostImport
                | OpState::LiveImport
                | OpState::FailedImport
        )
    }
    /// The measurement is final.
    pub const fn any_finalized(self) -> bool {
        matches!(
            self,
            OpState::Runnable
                | OpState::LiveExport
                | OpState::PausedExport
                | OpState::PostExport
                | OpState::MemoryImport
                | OpState::StateImport
                | OpState::PostImport
                | OpState::LiveImport
        )
    }
    /// In the in-order phase of an export.
    pub const fn export_in_order(self) -> bool {
        matches!(self, OpState::LiveExport | OpState::PausedExport)
    }
    /// In the in-order phase of an import.
    pub const fn import_in_order(self) -> bool {
        matches!(self, OpState::MemoryImport | OpState::StateImport)
    }
    /// In the out-of-order phase of an import.
    pub const fn import_out_of_order(self) -> bool {
        matches!(self, OpState::PostImport | OpState::LiveImport)
    }
    /// Removed pages become REMOVED, not FREE.
    pub const fn import_in_progress(self) -> bool {
        matches!(
            self,
            OpState::MemoryImport
                | OpState::StateImport
                | OpState::PostImport
                | OpState::LiveImport
        )
    }
}

states! {
    /// Life cycle of a TD: which of its resources it holds.
    LifecycleState: u8 {
        HkidAssigned = 0 "TD_HKID_ASSIGNED",
        KeysConfigured = 1 "TD_KEYS_CONFIGURED",
        Blocked = 2 "TD_BLOCKED",
        Teardown = 3 "TD_TEARDOWN",
    }
}

states! {
    /// State of a private HKID in the key ownership table.
    KotState: u8 {
        Free = 0 "KOT_STATE_HKID_FREE",
        Assigned = 1 "KOT_STATE_HKID_ASSIGNED",
        Flushed = 2 "KOT_STATE_HKID_FLUSHED",
        Reserved = 3 "KOT_STATE_HKID_RESERVED",
    }
}

states! {
    /// State of a vCPU.
    VcpuState: u8 {
        Uninitialized = 0 "VCPU_UNINITIALIZED",
        Ready = 2 "VCPU_READY",
        Active = 4 "VCPU_ACTIVE",
        Disabled = 8 "VCPU_DISABLED",
        Import = 16 "VCPU_IMPORT",
    }
}

states! {
    /// How a vCPU last left the TD, which decides what the next entry takes.
    LastTdExit: u8 {
        AsyncFault = 0 "LAST_EXIT_ASYNC_FAULT",
        AsyncTrap = 1 "LAST_EXIT_ASYNC_TRAP",
        Tdvmcall = 2 "LAST_EXIT_TDVMCALL",
    }
}

states! {
    /// State of the module.
    ModuleState: u8 {
        SysInitPending = 0 "SYSINIT_PENDING",
        SysInitDone = 1 "SYSINIT_DONE",
        SysConfigDone = 2 "SYSCONFIG_DONE",
        SysReady = 3 "SYS_READY",
        SysShutdown = 4 "SYS_SHUTDOWN",
    }
}
