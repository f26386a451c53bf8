//! The closed states of module, TD and vCPU, and the sets of them that leaves allow (spec: host-td.md 1).

pub use tdx_abi::{
    LastTdExit, LifecycleState as LifeCycle, ModuleState as SysState, OpState, VcpuState,
};

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
    AtomicSysState of SysState: SysInitPending, SysInitDone, SysConfigDone, SysReady, SysShutdown
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
