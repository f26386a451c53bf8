//! Service TDs: bindings and the words around them.

use crate::Sha384;
use crate::layout::{bytes, named_bits_display, states, word, word_type};

states! {
    /// State of a service TD binding slot.
    ServtdBindingState: u8 {
        NotBound = 0 "SERVTD_NOT_BOUND",
        PreBound = 1 "SERVTD_PRE_BOUND",
        Bound = 2 "SERVTD_BOUND",
    }
}

word! {
    /// Attributes of a binding.
    ServtdAttr: u64 {
        0..0 INSTANCE_BINDING instance_binding with_instance_binding,
        1..1 SOLICITED_BINDING solicited_binding with_solicited_binding,
        2..2 PLATFORM_BINDING platform_binding with_platform_binding,
        3..3 MIGRATABLE_BINDING migratable_binding with_migratable_binding,
        /// Fields of TDINFO that the binding's hash leaves out: an [`IgnoreTdinfo`].
        47..32 IGNORE_TDINFO ignore_tdinfo with_ignore_tdinfo,
    }
}

impl ServtdAttr {
    /// Bits that module 1.5.01 allows to be 1.
    pub const FIXED0: ServtdAttr = ServtdAttr(0x0000_07FF_0000_0001);
}

word! {
    /// Which fields of TDINFO_STRUCT a service TD's hash leaves out.
    IgnoreTdinfo: u16 {
        0..0 ATTRIBUTES attributes with_attributes,
        1..1 XFAM xfam with_xfam,
        2..2 MRTD mrtd with_mrtd,
        3..3 MRCONFIG mrconfig with_mrconfig,
        4..4 MROWNER mrowner with_mrowner,
        5..5 MROWNERCONFIG mrownerconfig with_mrownerconfig,
        9..6 RTMR rtmr with_rtmr,
        10..10 SERVTD_HASH servtd_hash with_servtd_hash,
    }
}

word! {
    /// A binding handle before the service TD's UUID is added to it.
    ServtdBindingHandle: u64 {
        11..0 BINDING_SLOT binding_slot with_binding_slot,
        51..12 TDR_PAGE tdr_page with_tdr_page,
    }
}

bytes! {
    /// One binding slot of a TD.
    ServtdBinding: 0x80 {
        0x000 state: u8,
        0x001 reserved_0: u8,
        0x002 kind: u16,
        0x004 reserved_1: u32,
        0x008 attributes: ServtdAttr,
        0x010 uuid: [u8; 32],
        0x030 info_hash: Sha384,
        0x060 reserved_2: [u8; 32],
    }
}
