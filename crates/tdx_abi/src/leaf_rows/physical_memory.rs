//! Leaves of host pages: TDH.PHYMEM.*.

use super::{Interruption, LeafCategory, LeafLock, LeafOperand, LeafRow, LockMode, rows};
use crate::Status;

rows! {
    24 "TDH.PHYMEM.PAGE.RDMD" v[0] PhysicalMemory "reads what the PAMT says of a page"
        in["RCX" "PAGE_HPA" ""]
        out["RCX" "PAGE_TYPE" "", "RDX" "OWNER" "", "R8" "PAGE_SIZE" "", "R9" "BEPOCH" "BEPOCH", "R10" "0" "", "R11" "0" ""]
        ops(None) septs(None) Never
        locks["PAMT entry of the page (RCX)" Shared]
        false
        statuses[OPERAND_ADDR_RANGE_ERROR, OPERAND_INVALID];

    28 "TDH.PHYMEM.PAGE.RECLAIM" v[0] PhysicalMemory "takes a page back from a TD that is torn down"
        in["RCX" "PAGE_HPA" ""]
        out["RCX" "PAGE_TYPE" "", "RDX" "OWNER" "", "R8" "PAGE_SIZE" "PAGE_SIZE", "R9" "0" "", "R10" "0" "", "R11" "0" ""]
        ops(None) septs(None) Never
        locks["PAMT entry of the page (RCX)" Exclusive, "TDR (found through PAMT owner)" Shared]
        false
        statuses[LIFECYCLE_STATE_INCORRECT, OPERAND_ADDR_RANGE_ERROR, OPERAND_INVALID, PAGE_METADATA_INCORRECT, TD_ASSOCIATED_PAGES_EXIST];

    36 "TDH.SYS.TDMR.INIT" v[0] PhysicalMemory "initializes a further part of a TDMR's PAMT"
        in["RCX" "TDMR_HPA" ""]
        out["RDX" "NEXT_TO_INITIALIZE" ""]
        ops(None) septs(None) Never
        locks["TDMR entry" Mutex]
        false
        statuses[OPERAND_BUSY, OPERAND_INVALID, TDMR_ALREADY_INITIALIZED];

    40 "TDH.PHYMEM.CACHE.WB" v[0] PhysicalMemory "writes back this package's caches for freed HKIDs"
        in["RCX" "COMMAND" ""]
        out[]
        ops(None) septs(None) Resumable
        locks["cache write-back entry of the package" Mutex, "KOT" Shared]
        false
        statuses[INTERRUPTED_RESUMABLE, NO_HKID_READY_TO_WBCACHE, OPERAND_BUSY, OPERAND_INVALID, WBCACHE_RESUME_ERROR];

    41 "TDH.PHYMEM.PAGE.WBINVD" v[0] PhysicalMemory "writes back and invalidates a page's cache lines"
        in["RCX" "PAGE_HPA" ""]
        out[]
        ops(None) septs(None) Never
        locks["page (RCX)" Shared]
        false
        statuses[];
}
