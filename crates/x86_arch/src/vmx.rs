//! The state of a processor in VMX non-root mode: registers, controls, and the words of its last exit.
//!
//! [`Vcpu`] is where `tdx_module` and `x86_engine` meet without knowing each other: the module fills it as it
//! would fill a VMCS and the registers beside it, the engine (or a scripted guest) runs on it and leaves the exit
//! information in it. Fields have the architecture's reset values after [`Vcpu::default`], not a TD's.

use crate::VmExit;

/// One segment register with its hidden part; access rights in VMCS format (SDM 25.4.1).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Segment {
    pub selector: u16,
    pub limit: u32,
    /// Bits 3:0 type, 4 S, 6:5 DPL, 7 P, 12 AVL, 13 L, 14 D/B, 15 G, 16 unusable.
    pub access: u32,
    pub base: u64,
}

/// GDTR or IDTR.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TableRegister {
    pub base: u64,
    pub limit: u16,
}

/// Index of a segment register in [`Registers::segments`], in x86 encoding order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Seg {
    Es = 0,
    Cs = 1,
    Ss = 2,
    Ds = 3,
    Fs = 4,
    Gs = 5,
}

/// x87 and SSE control state and the register files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fpu {
    pub fcw: u16,
    pub fsw: u16,
    /// Abridged tag word as FXSAVE stores it: bit i set when physical register i is not empty.
    pub ftw: u8,
    pub fop: u16,
    pub fip: u64,
    pub fdp: u64,
    pub mxcsr: u32,
    /// Physical x87 registers R0 to R7 as 80-bit values in the low bits: 63:0 significand, 79:64 sign and exponent.
    pub st: [u128; 8],
    /// YMM0 to YMM15: element 0 is the XMM register, element 1 the upper half.
    pub ymm: [[u128; 2]; 16],
}

impl Default for Fpu {
    fn default() -> Self {
        Self {
            fcw: 0x37F,
            fsw: 0,
            ftw: 0,
            fop: 0,
            fip: 0,
            fdp: 0,
            mxcsr: 0x1F80,
            st: [0; 8],
            ymm: [[0; 2]; 16],
        }
    }
}

/// MSRs that are a processor's own state and that non-root software reads or writes without an exit.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Msrs {
    pub efer: u64,
    pub pat: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub fmask: u64,
    pub kernel_gs_base: u64,
    pub tsc_aux: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub debugctl: u64,
    pub spec_ctrl: u64,
    pub xss: u64,
    pub xfd: u64,
    pub xfd_err: u64,
    pub pkrs: u64,
    pub s_cet: u64,
    pub ssp: u64,
    pub interrupt_ssp_table: u64,
    pub perf_global_ctrl: u64,
    pub rtit_ctl: u64,
    pub lbr_ctl: u64,
    pub uinv: u64,
    pub ds_area: u64,
    pub umwait_control: u64,
    pub tsx_ctrl: u64,
}

/// The registers that software running on the processor sees.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Registers {
    /// In x86 encoding order; [`crate::Gpr`] indexes it. RSP is here too.
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    /// [`Seg`] indexes it.
    pub segments: [Segment; 6],
    pub ldtr: Segment,
    pub tr: Segment,
    pub gdtr: TableRegister,
    pub idtr: TableRegister,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub dr: [u64; 4],
    pub dr6: u64,
    pub dr7: u64,
    pub xcr0: u64,
    pub pkru: u32,
    pub fpu: Fpu,
    pub msr: Msrs,
    /// VMCS interruptibility state: bit 0 STI, bit 1 MOV SS, bit 2 SMI, bit 3 NMI blocking.
    pub interruptibility: u32,
    /// VMCS activity state: 0 active, 1 HLT, 2 shutdown, 3 wait for SIPI.
    pub activity: u32,
    pub pending_debug: u64,
    /// PDPTE0 to PDPTE3 (PAE paging).
    pub pdpte: [u64; 4],
}

/// An event to deliver on entry, in VM-entry interruption-information format.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct EntryEvent {
    /// Bits 7:0 vector, 10:8 type, 11 deliver error code, 31 valid.
    pub info: u32,
    pub error_code: u32,
    pub instruction_length: u32,
}

/// VM-execution controls: what exits and how events are virtualised. Bits as in the SDM, chapter 25.6.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Controls {
    pub pin: u32,
    pub primary: u32,
    pub secondary: u32,
    pub tertiary: u64,
    pub exit: u32,
    pub entry: u32,
    pub exception_bitmap: u32,
    pub pf_error_mask: u32,
    pub pf_error_match: u32,
    pub cr0_mask: u64,
    pub cr0_shadow: u64,
    pub cr4_mask: u64,
    pub cr4_shadow: u64,
    pub tsc_offset: u64,
    /// 16.48 fixed point.
    pub tsc_multiplier: u64,
    pub xss_exiting: u64,
    pub ple_gap: u32,
    pub ple_window: u32,
    pub tpr_threshold: u32,
    pub notification_window: u32,
    pub preemption_timer: u32,
    pub eoi_exit: [u64; 4],
    pub posted_vector: u16,
    /// Host physical address of the posted-interrupt descriptor, key-ID bits included.
    pub posted_descriptor: u64,
    /// Guest interrupt status: RVI in 7:0, SVI in 15:8.
    pub interrupt_status: u16,
    pub vpid: u16,
    /// Bits that the SPEC_CTRL virtualisation hides from the guest, and what it last wrote.
    pub spec_ctrl_mask: u64,
    pub spec_ctrl_shadow: u64,
}

/// The virtualization-exception information area as the processor writes it (SDM 26.5.7.2).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct VeInfo {
    pub exit_reason: u32,
    /// All ones while the area is in use; the processor delivers a #VE only when it is 0.
    pub valid: u32,
    pub exit_qualification: u64,
    pub guest_linear_address: u64,
    pub guest_physical_address: u64,
    pub eptp_index: u16,
    /// Kept by software beside the processor's words.
    pub instruction_length: u32,
    pub instruction_info: u32,
}

/// The MSR bitmap: which MSR accesses exit (SDM 25.6.9). A set bit means exit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MsrBitmap {
    /// Read 0..0x1FFF, read 0xC0000000.., write 0..0x1FFF, write 0xC0000000..: 1024 bytes each.
    pub bits: [[u8; 1024]; 4],
}

impl Default for MsrBitmap {
    /// Everything exits.
    fn default() -> Self {
        Self {
            bits: [[0xFF; 1024]; 4],
        }
    }
}

impl MsrBitmap {
    /// Whether the access exits; MSRs outside both ranges always do.
    pub const fn exits(&self, msr: u32, write: bool) -> bool {
        let (half, index) = match msr {
            0..=0x1FFF => (0, msr),
            0xC000_0000..=0xC000_1FFF => (1, msr - 0xC000_0000),
            _ => return true,
        };
        let row = half + if write { 2 } else { 0 };
        self.bits[row][(index / 8) as usize] & (1 << (index % 8)) != 0
    }
    /// Lets the access pass or makes it exit; ignored outside both ranges.
    pub const fn set(&mut self, msr: u32, write: bool, exits: bool) {
        let (half, index) = match msr {
            0..=0x1FFF => (0, msr),
            0xC000_0000..=0xC000_1FFF => (1, msr - 0xC000_0000),
            _ => return,
        };
        let row = half + if write { 2 } else { 0 };
        let bit = 1 << (index % 8);
        if exits {
            self.bits[row][(index / 8) as usize] |= bit;
        } else {
            self.bits[row][(index / 8) as usize] &= !bit;
        }
    }
}

/// One virtual processor: everything that VM entry loads and VM exit saves.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Vcpu {
    pub regs: Registers,
    pub controls: Controls,
    pub msr_bitmap: MsrBitmap,
    /// The virtual-APIC page.
    pub apic_page: ApicPage,
    pub ve_info: VeInfo,
    /// Delivered on the next entry, then cleared by the engine.
    pub entry_event: EntryEvent,
    /// Filled on every exit.
    pub exit: VmExit,
    /// For who runs the vCPU: 0 until it first ran, and nobody else's to touch.
    pub runner: u64,
}

/// The 4 KiB virtual-APIC page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApicPage(pub [u8; 4096]);

impl Default for ApicPage {
    fn default() -> Self {
        Self([0; 4096])
    }
}

impl ApicPage {
    /// The 32-bit register at `offset` (the xAPIC offset: 0x80 TPR, 0xA0 PPR, 0x200.. IRR).
    pub fn read(&self, offset: usize) -> u32 {
        let bytes: [u8; 4] = self.0[offset..offset + 4].try_into().expect("four bytes");
        u32::from_le_bytes(bytes)
    }
    pub fn write(&mut self, offset: usize, value: u32) {
        self.0[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }
}
