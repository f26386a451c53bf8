//! The closed states of module, TD and vCPU, and the sets of them that leaves allow (spec: host-td.md 1).

/// SYS_STATE.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum SysState {
    InitPending = 0,
    InitDone = 1,
    ConfigDone = 2,
    Ready = 3,
    Shutdown = 4,
}

/// TDR.LIFECYCLE_STATE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum LifeCycle {
    HkidAssigned = 0,
    KeysConfigured = 1,
    Blocked = 2,
    Teardown = 3,
}

/// TDCS.OP_STATE.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum OpState {
    Uninitialized = 0,
    Initialized = 1,
    Runnable = 2,
    LiveExport = 3,
    PausedExport = 4,
    PostExport = 5,
    MemoryImport = 6,
    StateImport = 7,
    PostImport = 8,
    LiveImport = 9,
    FailedImport = 10,
}

impl OpState {
    pub const ALL: [OpState; 11] = [
        OpState::Uninitialized,
        OpState::Initialized,
        OpState::Runnable,
        OpState::LiveExport,
        OpState::PausedExport,
        OpState::PostExport,
        OpState::MemoryImport,
        OpState::StateImport,
        OpState::PostImport,
        OpState::LiveImport,
        OpState::FailedImport,
    ];
    /// Whether a mapping may only be changed after blocking and tracking (spec: host-memory.md 5).
    pub const fn needs_tlb_tracking(self) -> bool {
        matches!(
            self,
            OpState::Runnable | OpState::LiveExport | OpState::LiveImport
        )
    }
    pub const fn import_in_progress(self) -> bool {
        matches!(
            self,
            OpState::MemoryImport
                | OpState::StateImport
                | OpState::PostImport
                | OpState::LiveImport
        )
    }
    /// Whether the measurement is final: op-states 2 to 9.
    pub const fn is_finalized(self) -> bool {
        !matches!(
            self,
            OpState::Uninitialized | OpState::Initialized | OpState::FailedImport
        )
    }
}

/// A set of op-states.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpStates(u16);

impl OpStates {
    pub const NONE: OpStates = OpStates(0);

    /// Reads a row of the matrix in host-td.md 1.2: one `0` or `1` for each op-state, 0 first.
    pub const fn row(columns: [u8; 11]) -> OpStates {
        let mut set = 0;
        let mut i = 0;
        while i < 11 {
            set |= (columns[i] as u16) << i;
            i += 1;
        }
        OpStates(set)
    }
    pub const fn contains(self, state: OpState) -> bool {
        self.0 & 1 << state as u16 != 0
    }
}

/// TDVPS.STATE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum VcpuState {
    Uninitialized = 0,
    Ready = 2,
    Active = 4,
    Disabled = 8,
    Import = 0x10,
}

/// TDVPS.LAST_TD_EXIT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum LastTdExit {
    AsyncFault = 0,
    AsyncTrap = 1,
    Tdvmcall = 2,
}

macro_rules! atomic_state {
    ($(#[$doc:meta])* $atomic:ident of $state:ident: $($variant:ident),*) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $atomic(core::sync::atomic::AtomicU8);

        impl $atomic {
            pub const fn new(state: $state) -> Self {
                Self(core::sync::atomic::AtomicU8::new(state as u8))
            }
            pub fn get(&self) -> $state {
                const ALL: &[$state] = &[$($state::$variant),*];
                let raw = self.0.load(core::sync::atomic::Ordering::Acquire);
                // Only `set` writes it.
                ALL.iter().copied().find(|s| *s as u8 == raw).unwrap_or(ALL[0])
            }
            pub fn set(&self, _: &impl crate::call::Right, state: $state) {
                self.0.store(state as u8, core::sync::atomic::Ordering::Release);
            }
        }
    };
}

atomic_state! {
    /// SYS_STATE, readable without a lock.
    AtomicSysState of SysState: InitPending, InitDone, ConfigDone, Ready, Shutdown
}
atomic_state! {
    /// OP_STATE, readable without its lock.
    AtomicOpState of OpState: Uninitialized, Initialized, Runnable, LiveExport, PausedExport, PostExport,
    MemoryImport, StateImport, PostImport, LiveImport, FailedImport
}
atomic_state! {
    /// A vCPU's STATE.
    AtomicVcpuState of VcpuState: Uninitialized, Ready, Active, Disabled, Import
}
