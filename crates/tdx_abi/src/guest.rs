//! Structures that the guest side sees: #VE information and the state of an L2 VM.

use crate::layout::{bytes, named_bits_display, word, word_type};

bytes! {
    /// Virtualization-exception information; TDG.VP.VEINFO.GET hands its words out in registers.
    VeInfo: 0x80 {
        0x00 exit_reason: u32,
        /// 0xffffffff until the guest has fetched it, then 0.
        0x04 valid: u32,
        0x08 exit_qualification: u64,
        0x10 gla: u64,
        0x18 gpa: u64,
        0x20 eptp_index: u16,
        0x22 reserved0: [u8; 2],
        0x24 instruction_length: u32,
        0x28 instruction_info: u32,
        0x2c reserved1: [u8; 84],
    }
}

bytes! {
    /// The sixteen GPRs in x86 encoding order.
    Gprs: 0x80 {
        0x0 gprs: [u64; 16],
    }
}

bytes! {
    /// The L2 state that TDG.VP.ENTER loads and an L2 exit stores (RDX, 256-aligned GPA).
    L2EnterGuestState: 0x9a {
        0x000 gpr_state: Gprs,
        0x080 rflags: u64,
        0x088 rip: u64,
        0x090 ssp: u64,
        0x098 interrupt_status: u16,
    }
}

word! {
    /// RSI on an exit from L2 to L1.
    L2SegmentDetails: u64 {
        15..0 SELECTOR selector with_selector,
        31..16 AR ar with_ar,
        63..32 LIMIT limit with_limit,
    }
}

word! {
    /// R12 on an exit from L2 to L1.
    L2AdditionalExitInfo: u64 {
        1..0 CPL cpl with_cpl,
    }
}
