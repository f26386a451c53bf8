//! Leaf numbers of SEAMCALL (TDH.*) and TDCALL (TDG.*).

use core::fmt;

/// RAX at a call: leaf number in bits 15:0, version in 23:16.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct LeafWord(pub u64);

impl LeafWord {
    pub const fn new(leaf: u16, version: u8) -> LeafWord {
        LeafWord(leaf as u64 | (version as u64) << 16)
    }
    pub const fn number(self) -> u16 {
        self.0 as u16
    }
    pub const fn version(self) -> u8 {
        (self.0 >> 16) as u8
    }
}

macro_rules! leaves {
    ($(#[$doc:meta])* $ty:ident: $($name:ident = $value:literal $text:literal,)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $ty(pub u16);

        impl $ty {
            $(#[doc = $text] pub const $name: $ty = $ty($value);)*
            pub const ALL: &'static [$ty] = &[$($ty::$name,)*];
            /// The manual's name.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $($ty::$name => Some($text),)*
                    _ => None,
                }
            }
            /// The leaf of the manual's name.
            pub fn parse(name: &str) -> Option<$ty> {
                Self::ALL.iter().copied().find(|leaf| leaf.name().is_some_and(|n| n.eq_ignore_ascii_case(name)))
            }
            /// RAX for version 0 of the leaf.
            pub const fn word(self) -> LeafWord {
                LeafWord::new(self.0, 0)
            }
        }

        impl fmt::Display for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.pad(name),
                    None => write!(f, "leaf {}", self.0),
                }
            }
        }

        impl fmt::Debug for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

leaves! {
    /// A SEAMCALL leaf of the TDX module. Open: the module answers unknown numbers too.
    HostLeaf:
    VP_ENTER = 0 "TDH.VP.ENTER",
    MNG_ADDCX = 1 "TDH.MNG.ADDCX",
    MEM_PAGE_ADD = 2 "TDH.MEM.PAGE.ADD",
    MEM_SEPT_ADD = 3 "TDH.MEM.SEPT.ADD",
    VP_ADDCX = 4 "TDH.VP.ADDCX",
    MEM_PAGE_RELOCATE = 5 "TDH.MEM.PAGE.RELOCATE",
    MEM_PAGE_AUG = 6 "TDH.MEM.PAGE.AUG",
    MEM_RANGE_BLOCK = 7 "TDH.MEM.RANGE.BLOCK",
    MNG_KEY_CONFIG = 8 "TDH.MNG.KEY.CONFIG",
    MNG_CREATE = 9 "TDH.MNG.CREATE",
    VP_CREATE = 10 "TDH.VP.CREATE",
    MNG_RD = 11 "TDH.MNG.RD",
    MEM_RD = 12 "TDH.MEM.RD",
    MNG_WR = 13 "TDH.MNG.WR",
    MEM_WR = 14 "TDH.MEM.WR",
    MEM_PAGE_DEMOTE = 15 "TDH.MEM.PAGE.DEMOTE",
    MR_EXTEND = 16 "TDH.MR.EXTEND",
    MR_FINALIZE = 17 "TDH.MR.FINALIZE",
    VP_FLUSH = 18 "TDH.VP.FLUSH",
    MNG_VPFLUSHDONE = 19 "TDH.MNG.VPFLUSHDONE",
    MNG_KEY_FREEID = 20 "TDH.MNG.KEY.FREEID",
    MNG_INIT = 21 "TDH.MNG.INIT",
    VP_INIT = 22 "TDH.VP.INIT",
    MEM_PAGE_PROMOTE = 23 "TDH.MEM.PAGE.PROMOTE",
    PHYMEM_PAGE_RDMD = 24 "TDH.PHYMEM.PAGE.RDMD",
    MEM_SEPT_RD = 25 "TDH.MEM.SEPT.RD",
    VP_RD = 26 "TDH.VP.RD",
    MNG_KEY_RECLAIMID = 27 "TDH.MNG.KEY.RECLAIMID",
    PHYMEM_PAGE_RECLAIM = 28 "TDH.PHYMEM.PAGE.RECLAIM",
    MEM_PAGE_REMOVE = 29 "TDH.MEM.PAGE.REMOVE",
    MEM_SEPT_REMOVE = 30 "TDH.MEM.SEPT.REMOVE",
    SYS_KEY_CONFIG = 31 "TDH.SYS.KEY.CONFIG",
    SYS_INFO = 32 "TDH.SYS.INFO",
    SYS_INIT = 33 "TDH.SYS.INIT",
    SYS_RD = 34 "TDH.SYS.RD",
    SYS_LP_INIT = 35 "TDH.SYS.LP.INIT",
    SYS_TDMR_INIT = 36 "TDH.SYS.TDMR.INIT",
    SYS_RDALL = 37 "TDH.SYS.RDALL",
    MEM_TRACK = 38 "TDH.MEM.TRACK",
    MEM_RANGE_UNBLOCK = 39 "TDH.MEM.RANGE.UNBLOCK",
    PHYMEM_CACHE_WB = 40 "TDH.PHYMEM.CACHE.WB",
    PHYMEM_PAGE_WBINVD = 41 "TDH.PHYMEM.PAGE.WBINVD",
    MEM_SEPT_WR = 42 "TDH.MEM.SEPT.WR",
    VP_WR = 43 "TDH.VP.WR",
    SYS_LP_SHUTDOWN = 44 "TDH.SYS.LP.SHUTDOWN",
    SYS_CONFIG = 45 "TDH.SYS.CONFIG",
    SERVTD_BIND = 48 "TDH.SERVTD.BIND",
    SERVTD_PREBIND = 49 "TDH.SERVTD.PREBIND",
    SYS_SHUTDOWN = 52 "TDH.SYS.SHUTDOWN",
    SYS_UPDATE = 53 "TDH.SYS.UPDATE",
    EXPORT_ABORT = 64 "TDH.EXPORT.ABORT",
    EXPORT_BLOCKW = 65 "TDH.EXPORT.BLOCKW",
    EXPORT_RESTORE = 66 "TDH.EXPORT.RESTORE",
    EXPORT_MEM = 68 "TDH.EXPORT.MEM",
    EXPORT_PAUSE = 70 "TDH.EXPORT.PAUSE",
    EXPORT_TRACK = 71 "TDH.EXPORT.TRACK",
    EXPORT_STATE_IMMUTABLE = 72 "TDH.EXPORT.STATE.IMMUTABLE",
    EXPORT_STATE_TD = 73 "TDH.EXPORT.STATE.TD",
    EXPORT_STATE_VP = 74 "TDH.EXPORT.STATE.VP",
    EXPORT_UNBLOCKW = 75 "TDH.EXPORT.UNBLOCKW",
    IMPORT_ABORT = 80 "TDH.IMPORT.ABORT",
    IMPORT_END = 81 "TDH.IMPORT.END",
    IMPORT_COMMIT = 82 "TDH.IMPORT.COMMIT",
    IMPORT_MEM = 83 "TDH.IMPORT.MEM",
    IMPORT_TRACK = 84 "TDH.IMPORT.TRACK",
    IMPORT_STATE_IMMUTABLE = 85 "TDH.IMPORT.STATE.IMMUTABLE",
    IMPORT_STATE_TD = 86 "TDH.IMPORT.STATE.TD",
    IMPORT_STATE_VP = 87 "TDH.IMPORT.STATE.VP",
    MIG_STREAM_CREATE = 96 "TDH.MIG.STREAM.CREATE",
}

leaves! {
    /// A TDCALL leaf of the TDX module. Open: the module answers unknown numbers too.
    GuestLeaf:
    VP_VMCALL = 0 "TDG.VP.VMCALL",
    VP_INFO = 1 "TDG.VP.INFO",
    MR_RTMR_EXTEND = 2 "TDG.MR.RTMR.EXTEND",
    VP_VEINFO_GET = 3 "TDG.VP.VEINFO.GET",
    MR_REPORT = 4 "TDG.MR.REPORT",
    VP_CPUIDVE_SET = 5 "TDG.VP.CPUIDVE.SET",
    MEM_PAGE_ACCEPT = 6 "TDG.MEM.PAGE.ACCEPT",
    VM_RD = 7 "TDG.VM.RD",
    VM_WR = 8 "TDG.VM.WR",
    VP_RD = 9 "TDG.VP.RD",
    VP_WR = 10 "TDG.VP.WR",
    SYS_RD = 11 "TDG.SYS.RD",
    SYS_RDALL = 12 "TDG.SYS.RDALL",
    SERVTD_RD = 18 "TDG.SERVTD.RD",
    SERVTD_WR = 20 "TDG.SERVTD.WR",
    MR_VERIFYREPORT = 22 "TDG.MR.VERIFYREPORT",
    MEM_PAGE_ATTR_RD = 23 "TDG.MEM.PAGE.ATTR.RD",
    MEM_PAGE_ATTR_WR = 24 "TDG.MEM.PAGE.ATTR.WR",
    VP_ENTER = 25 "TDG.VP.ENTER",
    VP_INVEPT = 26 "TDG.VP.INVEPT",
    VP_INVVPID = 27 "TDG.VP.INVVPID",
}
