//! The ranges of MSR virtualization, ascending: what exits, and what the module then does.

use super::Action::*;
use super::Bit::*;
use super::Range;

#[rustfmt::skip]
pub static RANGES: [Range; 134] = [
    Range { first: 0x10, last: 0x10, read: (Never, NeverExits), write: (Always, Ve) }, // IA32_TIME_STAMP_COUNTER
    Range { first: 0x48, last: 0x48, read: (Never, NeverExits), write: (Never, NeverExits) }, // IA32_SPEC_CTRL
    Range { first: 0x49, last: 0x49, read: (Never, NeverExits), write: (Never, NeverExits) }, // IA32_PRED_CMD
    Range { first: 0x87, last: 0x87, read: (Always, GpOrVe), write: (Always, GpOrVe) }, // IA32_MKTME_PARTITIONING
    Range { first: 0x8C, last: 0x8F, read: (Always, Gp), write: (Always, Gp) }, // IA32_SGXLEPUBKEYHASHx
    Range { first: 0x98, last: 0x98, read: (Always, Gp), write: (Always, Gp) }, // MSR_WBINVDP
    Range { first: 0x99, last: 0x99, read: (Always, Gp), write: (Always, Gp) }, // MSR_WBNOINVDP
    Range { first: 0x9A, last: 0x9A, read: (Always, Gp), write: (Always, Gp) }, // MSR_INTR_PENDING
    Range { first: 0x9B, last: 0x9B, read: (Always, Gp), write: (Always, Gp) }, // IA32_SMM_MONITOR_CTL
    Range { first: 0x9E, last: 0x9E, read: (Always, Gp), write: (Always, Gp) }, // IA32_SMBASE
    Range { first: 0xBC, last: 0xBC, read: (Never, NeverExits), write: (Always, Ve) }, // IA32_MISC_PACKAGE_CTLS
    Range { first: 0xBD, last: 0xBD, read: (Always, Emulated), write: (Never, NeverExits) }, // IA32_XAPIC_DISABLE_STATUS
    Range { first: 0xC1, last: 0xC8, read: (UnlessPerfmon, Gp), write: (UnlessPerfmon, Gp) }, // IA32_PMCx
    Range { first: 0xE1, last: 0xE1, read: (UnlessWaitpkg, Gp), write: (UnlessWaitpkg, Gp) }, // IA32_UMWAIT_CONTROL
    Range { first: 0x10A, last: 0x10A, read: (Always, Emulated), write: (Never, NeverExits) }, // IA32_ARCH_CAPABILITIES
    Range { first: 0x10B, last: 0x10B, read: (Never, NeverExits), write: (Never, NeverExits) }, // IA32_FLUSH_CMD
    Range { first: 0x122, last: 0x122, read: (UnlessTsx, Gp), write: (UnlessTsx, Gp) }, // IA32_TSX_CTRL
    Range { first: 0x174, last: 0x174, read: (Never, NeverExits), write: (Never, NeverExits) }, // IA32_SYSENTER_CS
    Range { first: 0x175, last: 0x175, read: (Never, NeverExits), write: (Never, NeverExits) }, // IA32_SYSENTER_ESP
    Range { first: 0x176, last: 0x176, read: (Never, NeverExits), write: (Never, NeverExits) }, // IA32_SYSENTER_EIP
    Range { first: 0x186, last: 0x18D, read: (UnlessPerfmon, Gp), write: (UnlessPerfmon, Gp) }, // IA32_PERFEVTSELx
    Range { first: 0x195, last: 0x195, read: (Always, Gp), write: (Always, Gp) }, // IA32_OVERCLOCKING_STATUS
    Range { first: 0x1A0, last: 0x1A0, read: (UnlessPerfmon, Emulated), write: (Always, Ve) }, // IA32_MISC_ENABLE
    Range { first: 0x1A6, last: 0x1A7, read: (UnlessPerfmon, Gp), write: (UnlessPerfmon, Gp) }, // MSR_OFFCORE_RSPx
    Range { first: 0x1C4, last: 0x1C4, read: (UnlessXfd, Gp), write: (UnlessXfd, Gp) }, // IA32_XFD
    Range { first: 0x1C5, last: 0x1C5, read: (UnlessXfd, Gp), write: (UnlessXfd, Gp) }, // IA32_XFD_ERR
    Range { first: 0x1D9, last: 0x1D9, read: (Always, Emulated), write: (Always, Emulated) }, // IA32_DEBUGCTL
    Range { first: 0x1F8, last: 0x1F8, read: (Always, GpOrVe), write: (Always, GpOrVe) }, // IA32_PLATFORM_DCA_CAP
    Range { first: 0x1F9, last: 0x1F9, read: (Always, GpOrVe), write: (Always, GpOrVe) }, // IA32_CPU_DCA_CAP
    Range { first: 0x1FA, last: 0x1FA, read: (Always, GpOrVe), write: (Always, GpOrVe) }, // IA32_DCA_0_CAP
    Range { first: 0x276, last: 0x276, read: (Always, Gp), write: (Always, Gp) }, // MSR_SLAM_ENABLE
    Range { first: 0x277, last: 0x277, read: (Never, NeverExits), write: (Never, NeverExits) }, // IA32_PAT
    Range { first: 0x309, last: 0x310, read: (UnlessPerfmon, Gp), write: (UnlessPerfmon, Gp) }, // IA32_FIXED_CTRx
    Range { first: 0x329, last: 0x329, read: (UnlessOther, Gp), write: (UnlessOther, Gp) }, // IA32_PERF_METRICS
    Range { first: 0x345, last: 0x345, read: (UnlessOther, Emulated), write: (UnlessPerfmon, Gp) }, // IA32_PERF_CAPABILITIES
    Range { first: 0x38D, last: 0x38D, read: (UnlessPerfmon, Gp), write: (UnlessPerfmon, Gp) }, // IA32_FIXED_CTR_CTRL
    Range { first: 0x38E, last: 0x38E, read: (UnlessPerfmon, Gp), write: (UnlessPerfmon, Gp) }, // IA32_PERF_GLOBAL_STATUS
    Range { first: 0x38F, last: 0x38F, read: (UnlessPerfmon, Gp), write: (UnlessPerfmon, Gp) }, // IA32_PERF_GLOBAL_CTRL
    Range { first: 0x390, last: 0x390, read: (UnlessPerfmon, Gp), write: (UnlessPerfmon, Gp) }, // IA32_PERF_GLOBAL_STATUS_RESET
    Range { first: 0x391, last: 0x391, read: (UnlessPerfmon, Gp), write: (UnlessPerfmon, Gp) }, // IA32_PERF_GLOBAL_STATUS_SET
    Range { first: 0x392, last: 0x392, read: (UnlessPerfmon, Gp), write: (UnlessPerfmon, Gp) }, // IA32_PERF_GLOBAL_INUSE
    Range { first: 0x3F1, last: 0x3F1, read: (UnlessPerfmon, Gp), write: (UnlessPerfmon, Gp) }, // IA32_PEBS_ENABLE
    Range { first: 0x3F2, last: 0x3F2, read: (UnlessPerfmon, Gp), write: (UnlessPerfmon, Gp) }, // MSR_PEBS_MATRIX_VECT
    Range { first: 0x3F6, last: 0x3F6, read: (UnlessPerfmon, Gp), write: (UnlessPerfmon, Gp) }, // MSR_PEBS_LD_LATENCY
    Range { first: 0x3F7, last: 0x3F7, read: (UnlessPerfmon, Gp), write: (UnlessPerfmon, Gp) }, // MSR_PEBS_FRONTEND
    Range { first: 0x480, last: 0x480, read: (Always, Emulated), write: (Always, Gp) }, // IA32_VMX_BASIC
    Range { first: 0x481, last: 0x481, read: (Always, Ve), write: (Always, Gp) }, // IA32_VMX_PINBASED_CTLS
    Range { first: 0x482, last: 0x482, read: (Always, Ve), write: (Always, Gp) }, // IA32_VMX_PROCBASED_CTLS
    Range { first: 0x483, last: 0x483, read: (Always, Ve), write: (Always, Gp) }, // IA32_VMX_EXIT_CTLS
    Range { first: 0x484, last: 0x484, read: (Always, Ve), write: (Always, Gp) }, // IA32_VMX_ENTRY_CTLS
    Range { first: 0x485, last: 0x485, read: (Always, Emulated), write: (Always, Gp) }, // IA32_VMX_MISC
    Range { first: 0x486, last: 0x486, read: (Always, Emulated), write: (Always, Gp) }, // IA32_VMX_CR0_FIXED0
    Range { first: 0x487, last: 0x487, read: (Always, Emulated), write: (Always, Gp) }, // IA32_VMX_CR0_FIXED1
    Range { first: 0x488, last: 0x488, read: (Always, Emulated), write: (Always, Gp) }, // IA32_VMX_CR4_FIXED0
    Range { first: 0x489, last: 0x489, read: (Always, Emulated), write: (Always, Gp) }, // IA32_VMX_CR4_FIXED1
    Range { first: 0x48A, last: 0x48A, read: (Always, Ve), write: (Always, Gp) }, // IA32_VMX_VMCS_ENUM
    Range { first: 0x48B, last: 0x48B, read: (Always, Emulated), write: (Always, Gp) }, // IA32_VMX_PROCBASED_CTLS2
    Range { first: 0x48C, last: 0x48C, read: (Always, Emulated), write: (Always, Gp) }, // IA32_VMX_EPT_VPID_CAP
    Range { first: 0x48D, last: 0x48D, read: (Always, Emulated), write: (Always, Gp) }, // IA32_VMX_TRUE_PINBASED_CTLS
    Range { first: 0x48E, last: 0x48E, read: (Always, Emulated), write: (Always, Gp) }, // IA32_VMX_TRUE_PROCBASED_CTLS
    Range { first: 0x48F, last: 0x48F, read: (Always, Emulated), write: (Always, Gp) }, // IA32_VMX_TRUE_EXIT_CTLS
    Range { first: 0x490, last: 0x490, read: (Always, Emulated), write: (Always, Gp) }, // IA32_VMX_TRUE_ENTRY_CTLS
    Range { first: 0x491, last: 0x491, read: (Always, Emulated), write: (Always, Gp) }, // IA32_VMX_VMFUNC
    Range { first: 0x492, last: 0x492, read: (Always, Emulated), write: (Always, Gp) }, // IA32_VMX_PROCBASED_CTLS3
    Range { first: 0x4C1, last: 0x4C8, read: (UnlessPerfmon, Gp), write: (UnlessPerfmon, Gp) }, // IA32_A_PMCx
    Range { first: 0x500, last: 0x500, read: (Always, Gp), write: (Always, Gp) }, // IA32_SGX_SVN_STATUS
    Range { first: 0x560, last: 0x560, read: (UnlessPt, Gp), write: (UnlessPt, Gp) }, // IA32_RTIT_OUTPUT_BASE
    Range { first: 0x561, last: 0x561, read: (UnlessPt, Gp), write: (UnlessPt, Gp) }, // IA32_RTIT_OUTPUT_MASK_PTRS
    Range { first: 0x570, last: 0x570, read: (UnlessPt, Gp), write: (UnlessPt, Gp) }, // IA32_RTIT_CTL
    Range { first: 0x571, last: 0x571, read: (UnlessPt, Gp), write: (UnlessPt, Gp) }, // IA32_RTIT_STATUS
    Range { first: 0x572, last: 0x572, read: (UnlessPt, Gp), write: (UnlessPt, Gp) }, // IA32_RTIT_CR3_MATCH
    Range { first: 0x580, last: 0x580, read: (UnlessPt, Gp), write: (UnlessPt, Gp) }, // IA32_RTIT_ADDR0_A
    Range { first: 0x581, last: 0x581, read: (UnlessPt, Gp), write: (UnlessPt, Gp) }, // IA32_RTIT_ADDR0_B
    Range { first: 0x582, last: 0x582, read: (UnlessPt, Gp), write: (UnlessPt, Gp) }, // IA32_RTIT_ADDR1_A
    Range { first: 0x583, last: 0x583, read: (UnlessPt, Gp), write: (UnlessPt, Gp) }, // IA32_RTIT_ADDR1_B
    Range { first: 0x584, last: 0x584, read: (UnlessPt, Gp), write: (UnlessPt, Gp) }, // IA32_RTIT_ADDR2_A
    Range { first: 0x585, last: 0x585, read: (UnlessPt, Gp), write: (UnlessPt, Gp) }, // IA32_RTIT_ADDR2_B
    Range { first: 0x586, last: 0x586, read: (UnlessPt, Gp), write: (UnlessPt, Gp) }, // IA32_RTIT_ADDR3_A
    Range { first: 0x587, last: 0x587, read: (UnlessPt, Gp), write: (UnlessPt, Gp) }, // IA32_RTIT_ADDR3_B
    Range { first: 0x600, last: 0x600, read: (Never, NeverExits), write: (Never, NeverExits) }, // IA32_DS_AREA
    Range { first: 0x6A0, last: 0x6A0, read: (UnlessCet, Gp), write: (UnlessCet, Gp) }, // IA32_U_CET
    Range { first: 0x6A2, last: 0x6A2, read: (UnlessCet, Gp), write: (UnlessCet, Gp) }, // IA32_S_CET
    Range { first: 0x6A4, last: 0x6A4, read: (UnlessCet, Gp), write: (UnlessCet, Gp) }, // IA32_PL0_SSP
    Range { first: 0x6A5, last: 0x6A5, read: (UnlessCet, Gp), write: (UnlessCet, Gp) }, // IA32_PL1_SSP
    Range { first: 0x6A6, last: 0x6A6, read: (UnlessCet, Gp), write: (UnlessCet, Gp) }, // IA32_PL2_SSP
    Range { first: 0x6A7, last: 0x6A7, read: (UnlessCet, Gp), write: (UnlessCet, Gp) }, // IA32_PL3_SSP
    Range { first: 0x6A8, last: 0x6A8, read: (UnlessCet, Gp), write: (UnlessCet, Gp) }, // IA32_INTERRUPT_SSP_TABLE_ADDR
    Range { first: 0x6E0, last: 0x6E0, read: (Always, GpOrVe), write: (Always, GpOrVe) }, // IA32_TSC_DEADLINE
    Range { first: 0x6E1, last: 0x6E1, read: (UnlessPks, Gp), write: (UnlessPks, Gp) }, // IA32_PKRS
    Range { first: 0x800, last: 0x801, read: (Always, Gp), write: (Always, Gp) }, // Reserved for xAPIC MSRs
    Range { first: 0x804, last: 0x807, read: (Always, Gp), write: (Always, Gp) }, // Reserved for xAPIC MSRs
    Range { first: 0x808, last: 0x808, read: (Never, NeverExits), write: (Never, NeverExits) }, // IA32_X2APIC_TPR
    Range { first: 0x809, last: 0x809, read: (Never, NeverExits), write: (Never, NeverExits) }, // Reserved for xAPIC MSRs
    Range { first: 0x80A, last: 0x80A, read: (Never, NeverExits), write: (Never, NeverExits) }, // IA32_X2APIC_PPR
    Range { first: 0x80B, last: 0x80B, read: (Never, NeverExits), write: (Never, NeverExits) }, // IA32_X2APIC_EOI
    Range { first: 0x80C, last: 0x80C, read: (Never, NeverExits), write: (Never, NeverExits) }, // Reserved for xAPIC MSRs
    Range { first: 0x80E, last: 0x80E, read: (Never, NeverExits), write: (Never, NeverExits) }, // Reserved for xAPIC MSRs
    Range { first: 0x810, last: 0x817, read: (Never, NeverExits), write: (Never, NeverExits) }, // IA32_X2APIC_ISRx
    Range { first: 0x818, last: 0x81F, read: (Never, NeverExits), write: (Never, NeverExits) }, // IA32_X2APIC_TMRx
    Range { first: 0x820, last: 0x827, read: (Never, NeverExits), write: (Never, NeverExits) }, // IA32_X2APIC_IRRx
    Range { first: 0x829, last: 0x82E, read: (Always, Gp), write: (Always, Gp) }, // Reserved for xAPIC MSRs
    Range { first: 0x831, last: 0x831, read: (Always, Gp), write: (Always, Gp) }, // Reserved for xAPIC MSRs
    Range { first: 0x83F, last: 0x83F, read: (Never, NeverExits), write: (Never, NeverExits) }, // IA32_X2APIC_SELF_IPI
    Range { first: 0x840, last: 0x87F, read: (Always, Gp), write: (Always, Gp) }, // Reserved for xAPIC MSRs
    Range { first: 0x880, last: 0x8BF, read: (Always, Gp), write: (Always, Gp) }, // Reserved for xAPIC MSRs
    Range { first: 0x8C0, last: 0x8FF, read: (Always, Gp), write: (Always, Gp) }, // Reserved for xAPIC MSRs
    Range { first: 0x981, last: 0x981, read: (Always, GpOrVe), write: (Always, GpOrVe) }, // IA32_TME_CAPABILITY
    Range { first: 0x982, last: 0x982, read: (Always, GpOrVe), write: (Always, GpOrVe) }, // IA32_TME_ACTIVATE
    Range { first: 0x983, last: 0x983, read: (Always, GpOrVe), write: (Always, GpOrVe) }, // IA32_TME_EXCLUDE_MASK
    Range { first: 0x984, last: 0x984, read: (Always, GpOrVe), write: (Always, GpOrVe) }, // IA32_TME_EXCLUDE_BASE
    Range { first: 0x985, last: 0x985, read: (UnlessUintr, Gp), write: (UnlessUintr, Gp) }, // IA32_UINTR_RR
    Range { first: 0x986, last: 0x986, read: (UnlessUintr, Gp), write: (UnlessUintr, Gp) }, // IA32_UINTR_HANDLER
    Range { first: 0x987, last: 0x987, read: (UnlessUintr, Gp), write: (UnlessUintr, Gp) }, // IA32_UINTR_STACKADJUST
    Range { first: 0x988, last: 0x988, read: (UnlessUintr, Gp), write: (UnlessUintr, Gp) }, // IA32_UINTR_MISC
    Range { first: 0x989, last: 0x989, read: (UnlessUintr, Gp), write: (UnlessUintr, Gp) }, // IA32_UINTR_PD
    Range { first: 0x98A, last: 0x98A, read: (UnlessUintr, Gp), write: (UnlessUintr, Gp) }, // IA32_UINTR_TT
    Range { first: 0xC80, last: 0xC80, read: (Never, NeverExits), write: (Always, Ve) }, // IA32_DEBUG_INTERFACE
    Range { first: 0xD90, last: 0xD90, read: (Always, Gp), write: (Always, Gp) }, // IA32_BNDCFGS
    Range { first: 0xD93, last: 0xD93, read: (Always, Gp), write: (Always, Gp) }, // IA32_PASID
    Range { first: 0xDA0, last: 0xDA0, read: (Never, NeverExits), write: (Always, Emulated) }, // IA32_XSS
    Range { first: 0x1200, last: 0x12FF, read: (UnlessLbr, Gp), write: (UnlessLbr, Gp) }, // IA32_LBR_INFO
    Range { first: 0x14CE, last: 0x14CE, read: (UnlessLbr, Gp), write: (UnlessLbr, Gp) }, // IA32_LBR_CTL
    Range { first: 0x14CF, last: 0x14CF, read: (UnlessLbr, Gp), write: (UnlessLbr, Gp) }, // IA32_LBR_DEPTH
    Range { first: 0x1500, last: 0x15FF, read: (UnlessLbr, Gp), write: (UnlessLbr, Gp) }, // IA32_LBR_x_FROM_IP
    Range { first: 0x1600, last: 0x16FF, read: (UnlessLbr, Gp), write: (UnlessLbr, Gp) }, // IA32_LBR_x_TO_IP
    Range { first: 0x1B01, last: 0x1B01, read: (Never, NeverExits), write: (Never, NeverExits) }, // IA32_UARCH_MISC_CTL
    Range { first: 0xC000_0080, last: 0xC000_0080, read: (Never, NeverExits), write: (Always, Emulated) }, // IA32_EFER
    Range { first: 0xC000_0081, last: 0xC000_0081, read: (Never, NeverExits), write: (Never, NeverExits) }, // IA32_STAR
    Range { first: 0xC000_0082, last: 0xC000_0082, read: (Never, NeverExits), write: (Never, NeverExits) }, // IA32_LSTAR
    Range { first: 0xC000_0084, last: 0xC000_0084, read: (Never, NeverExits), write: (Never, NeverExits) }, // IA32_FMASK
    Range { first: 0xC000_0100, last: 0xC000_0100, read: (Never, NeverExits), write: (Never, NeverExits) }, // IA32_FSBASE
    Range { first: 0xC000_0101, last: 0xC000_0101, read: (Never, NeverExits), write: (Never, NeverExits) }, // IA32_GSBASE
    Range { first: 0xC000_0102, last: 0xC000_0102, read: (Never, NeverExits), write: (Never, NeverExits) }, // IA32_KERNEL_GS_BASE
    Range { first: 0xC000_0103, last: 0xC000_0103, read: (Never, NeverExits), write: (Never, NeverExits) }, // IA32_TSC_AUX
];
