//! Register operands that carry more than one thing.

use crate::layout::{flags, named_bits_display, word, word_type};

word! {
    /// RCX of TDH.VP.ENTER.
    TdvprAndFlags: u64 {
        51..12 TDVPRA_HPA_51_12 tdvpr_page with_tdvpr_page,
        52..52 HOST_RECOVERABILITY_HINT host_recoverability_hint with_host_recoverability_hint,
        /// Resume L1 though L2 ran last.
        53..53 RESUME_L1 resume_l1 with_resume_l1,
    }
}

word! {
    /// RDX of TDH.MEM.SEPT.ADD and TDH.MEM.PAGE.DEMOTE.
    TdrAndFlags: u64 {
        /// TDH.MEM.SEPT.ADD: an existing entry is no error. TDH.MEM.PAGE.DEMOTE: L2_SEPT_ADD_MODE.
        0..0 ALLOW_EXISTING allow_existing with_allow_existing,
        51..12 TDR_HPA_51_12 tdr_page with_tdr_page,
    }
}

word! {
    /// An HKID as a register operand.
    HkidOperand: u64 {
        15..0 HKID hkid with_hkid,
    }
}

word! {
    /// An address and the bytes that follow it (a migration buffer).
    HpaAndSize: u64 {
        51..0 HPA hpa with_hpa,
        63..52 SIZE size with_size,
    }
}

word! {
    /// A page and the offset of its last valid byte.
    HpaAndLast: u64 {
        11..0 LAST last with_last,
        51..12 HPA hpa with_hpa,
    }
}

word! {
    /// A migration stream and whether to start or resume.
    MigStreamAndCommand: u64 {
        15..0 MIGS_INDEX migs_index with_migs_index,
        63..63 COMMAND command with_command,
    }
}

word! {
    /// A list of pages: where it is and its last entry.
    PageListInfo: u64 {
        51..12 HPA hpa with_hpa,
        63..55 LAST_ENTRY last_entry with_last_entry,
    }
}

word! {
    /// One page of a page list.
    PageListEntry: u64 {
        51..12 HPA hpa with_hpa,
        63..63 INVALID invalid with_invalid,
    }
}

word! {
    /// A list of GPAs: where it is, which entries to work on.
    GpaListInfo: u64 {
        2..0 FORMAT format with_format,
        11..3 FIRST_ENTRY first_entry with_first_entry,
        51..12 HPA hpa with_hpa,
        63..55 LAST_ENTRY last_entry with_last_entry,
    }
}

word! {
    /// One GPA of a list, with what to do and what happened.
    GpaListEntry: u64 {
        1..0 LEVEL level with_level,
        2..2 PENDING pending with_pending,
        9..7 L2_MAP l2_map with_l2_map,
        11..10 MIG_TYPE mig_type with_mig_type,
        51..12 GPA gpa with_gpa,
        53..52 OPERATION operation with_operation,
        60..56 STATUS status with_status,
    }
}

word! {
    /// RDX of TDG.VP.INVVPID in list mode.
    GlaListInfo: u64 {
        8..0 FIRST_ENTRY first_entry with_first_entry,
        51..12 LIST_GPA list_gpa with_list_gpa,
        61..52 NUM_ENTRIES num_entries with_num_entries,
    }
}

word! {
    /// A range of linear addresses to invalidate.
    GlaListEntry: u64 {
        11..0 LAST_GLA_INDEX last_gla_index with_last_gla_index,
        63..12 BASE_GLA base_gla with_base_gla,
    }
}

word! {
    /// RCX that TDG.VP.INFO returns: the guest physical address width.
    GpawInfo: u64 {
        5..0 GPAW gpaw with_gpaw,
    }
}

word! {
    /// R8 that TDG.VP.INFO returns.
    NumVcpusInfo: u64 {
        31..0 NUM_VCPUS num_vcpus with_num_vcpus,
        63..32 MAX_VCPUS max_vcpus with_max_vcpus,
    }
}

flags! {
    /// R10 that TDG.VP.INFO returns.
    TdgCommandsAvailable: u64 {
        0 TDG_SYS_RD_AVAILABLE,
    }
}

word! {
    /// The first word of a metadata list.
    MdListHeader: u64 {
        /// Bytes used, this word included.
        15..0 LIST_BUFF_SIZE list_buff_size with_list_buff_size,
        31..16 NUM_SEQUENCES num_sequences with_num_sequences,
    }
}

word! {
    /// An architectural VMCS encoding.
    VmcsFieldCode: u32 {
        0..0 ACCESS_TYPE access_type with_access_type,
        9..1 INDEX index with_index,
        11..10 TYPE kind with_kind,
        14..13 WIDTH width with_width,
    }
}
