//! The words of a VM exit (SDM volume 3, chapter 28 and appendix C).

use core::fmt;

/// A basic exit reason: bits 15:0 of the exit-reason field. Open: a newer CPU may report others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct ExitReason(pub u16);

macro_rules! reasons {
    ($($name:ident = $value:literal,)*) => {
        impl ExitReason {
            $(pub const $name: ExitReason = ExitReason($value);)*

            /// Every exit reason this crate names.
            pub const ALL: &'static [ExitReason] = &[$(ExitReason::$name,)*];

            /// The manual's name, or `None` for a reason that it does not name.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(ExitReason::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

reasons! {
    EXCEPTION_OR_NMI = 0,
    INTERRUPT = 1,
    TRIPLE_FAULT = 2,
    INIT_EVENT = 3,
    SIPI_EVENT = 4,
    SMI_IO_EVENT = 5,
    SMI_OTHER_EVENT = 6,
    INTERRUPT_WINDOW = 7,
    NMI_WINDOW = 8,
    TASK_SWITCH = 9,
    CPUID_INSTRUCTION = 10,
    GETSEC_INSTRUCTION = 11,
    HLT_INSTRUCTION = 12,
    INVD_INSTRUCTION = 13,
    INVLPG_INSTRUCTION = 14,
    RDPMC_INSTRUCTION = 15,
    RDTSC_INSTRUCTION = 16,
    RSM_INSTRUCTION = 17,
    VMCALL_INSTRUCTION = 18,
    VMCLEAR_INSTRUCTION = 19,
    VMLAUNCH_INSTRUCTION = 20,
    VMPTRLD_INSTRUCTION = 21,
    VMPTRST_INSTRUCTION = 22,
    VMREAD_INSTRUCTION = 23,
    VMRESUME_INSTRUCTION = 24,
    VMWRITE_INSTRUCTION = 25,
    VMXOFF_INSTRUCTION = 26,
    VMXON_INSTRUCTION = 27,
    CR_ACCESS = 28,
    DR_ACCESS = 29,
    IO_INSTRUCTION = 30,
    MSR_READ = 31,
    MSR_WRITE = 32,
    FAILED_VMENTER_GS = 33,
    FAILED_VMENTER_MSR = 34,
    VMEXIT_FAILURE = 35,
    MWAIT_INSTRUCTION = 36,
    MTF = 37,
    MONITOR_INSTRUCTION = 39,
    PAUSE_INSTRUCTION = 40,
    FAILED_VMENTER_MC = 41,
    C_STATE_SMI = 42,
    TPR_BELOW_THRESHOLD = 43,
    APIC_ACCESS = 44,
    VIRTUALIZED_EOI = 45,
    GDTR_IDTR_ACCESS = 46,
    LDTR_TR_ACCESS = 47,
    EPT_VIOLATION = 48,
    EPT_MISCONFIGURATION = 49,
    INVLEPT = 50,
    RDTSCP = 51,
    PREEMPTION_TIMER_EXPIRED = 52,
    INVLVPID = 53,
    WBINVD_INSTRUCTION = 54,
    XSETBV_INSTRUCTION = 55,
    APIC_WRITE = 56,
    RDRAND_INSTRUCTION = 57,
    INVPCID_INSTRUCTION = 58,
    VMFUNC_INSTRUCTION = 59,
    ENCLS_INSTRUCTION = 60,
    RDSEED_INSTRUCTION = 61,
    EPT_PML_FULL = 62,
    XSAVES_INSTRUCTION = 63,
    XRSTORS_INSTRUCTION = 64,
    PCONFIG = 65,
    SPP_INDUCED = 66,
    UMWAIT = 67,
    TPAUSE = 68,
    LOADIWK_INSTRUCTION = 69,
    ENCLV_INSTRUCTION = 70,
    SGX_CONFLICT = 71,
    ENQCMD_PASID_TRANSLATION_FAILURE = 72,
    ENQCMDS_PASID_TRANSLATION_FAILURE = 73,
    BUS_LOCK = 74,
    NOTIFICATION = 75,
    SEAMCALL = 76,
    TDCALL = 77,
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "exit reason {}", self.0),
        }
    }
}

impl fmt::Debug for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({})", self.0)
    }
}

/// What the processor puts into the VMCS exit-information fields.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct VmExit {
    /// The whole 32-bit exit-reason field: bits 15:0 the basic reason, bit 26 bus lock, bit 31 entry failure.
    pub reason: u32,
    pub qualification: u64,
    pub instruction_length: u32,
    pub instruction_info: u32,
    pub interruption_info: u32,
    pub interruption_error: u32,
    pub idt_vectoring_info: u32,
    pub idt_vectoring_error: u32,
    pub guest_linear_address: u64,
    pub guest_physical_address: u64,
}

impl VmExit {
    /// Bit 26 of the exit reason: a bus lock was detected as well (SDM 28.2).
    pub const BUS_LOCK: u32 = 1 << 26;
    /// Bit 31 of the exit reason: the VM entry failed.
    pub const ENTRY_FAILURE: u32 = 1 << 31;

    pub const fn basic_reason(&self) -> ExitReason {
        ExitReason(self.reason as u16)
    }
    /// An exit for `reason` with nothing else to say.
    pub const fn new(reason: ExitReason) -> VmExit {
        VmExit {
            reason: reason.0 as u32,
            qualification: 0,
            instruction_length: 0,
            instruction_info: 0,
            interruption_info: 0,
            interruption_error: 0,
            idt_vectoring_info: 0,
            idt_vectoring_error: 0,
            guest_linear_address: 0,
            guest_physical_address: 0,
        }
    }
}
