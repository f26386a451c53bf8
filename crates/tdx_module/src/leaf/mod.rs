//! The SEAMCALL leaves: one row of data and one function each, one file each.
//!
//! A leaf's file holds `ROW` and `run`. `run` reads like the specification: defaults, operands and locks, checks in
//! order, [`Call::commit`], changes, done.

use crate::call::{Call, LeafResult};
use crate::machine::Machine;
use crate::profile::Profile;
use crate::state::OpStates;
use tdx_abi::HostLeaf;
use x86_arch::Gpr;

/// The code of a leaf.
pub type Run<M> = fn(&mut Call<'_, M>) -> LeafResult;

/// What is known of a leaf without running it.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub leaf: HostLeaf,
    /// Highest version; the leaf itself refuses a higher one, after it wrote its defaults.
    pub max_version: u8,
    /// Whether it may run before the module is READY.
    pub before_ready: bool,
    /// Op-states in which it may run; `NONE` where it does not consult OP_STATE.
    pub op_states: OpStates,
    pub inputs: &'static [Gpr],
    /// Registers that it writes, on success or as defaults.
    pub outputs: &'static [Gpr],
    /// A pending host event stops it.
    pub interruptible: bool,
}

impl Row {
    /// A leaf of a READY module without versions, inputs or outputs: the start of every row.
    pub const fn new(leaf: HostLeaf) -> Row {
        Row {
            leaf,
            max_version: 0,
            before_ready: false,
            op_states: OpStates::NONE,
            inputs: &[],
            outputs: &[],
            interruptible: false,
        }
    }
    /// Whether the dispatcher lets a version above 0 through.
    pub fn has_versions(&self, profile: &Profile) -> bool {
        match self.leaf {
            HostLeaf::VP_INIT => profile.vp_init_version > 0,
            _ => self.max_version > 0,
        }
    }
}

mod migration;

macro_rules! leaves {
    ($($module:ident,)*) => {
        $(mod $module;)*

        /// Every row, in no particular order.
        pub static ROWS: &[&Row] = &[$(&$module::ROW,)*];

        /// A leaf's row and code.
        pub fn find<M: Machine>(leaf: HostLeaf) -> Option<(&'static Row, Run<M>)> {
            $(if leaf.0 == $module::ROW.leaf.0 {
                return Some((&$module::ROW, $module::run::<M>));
            })*
            None
        }
    };
}

leaves! {
    tdh_export_abort,
    tdh_export_blockw,
    tdh_export_mem,
    tdh_export_pause,
    tdh_export_restore,
    tdh_export_state_immutable,
    tdh_export_state_td,
    tdh_export_state_vp,
    tdh_export_track,
    tdh_export_unblockw,
    tdh_import_abort,
    tdh_import_commit,
    tdh_import_end,
    tdh_import_mem,
    tdh_import_state_immutable,
    tdh_import_state_td,
    tdh_import_state_vp,
    tdh_import_track,
    tdh_mem_page_add,
    tdh_mem_page_aug,
    tdh_mem_page_demote,
    tdh_mem_page_promote,
    tdh_mem_page_relocate,
    tdh_mem_page_remove,
    tdh_mem_range_block,
    tdh_mem_range_unblock,
    tdh_mem_rd,
    tdh_mem_sept_add,
    tdh_mem_sept_rd,
    tdh_mem_sept_remove,
    tdh_mem_track,
    tdh_mem_wr,
    tdh_mig_stream_create,
    tdh_mng_addcx,
    tdh_mng_create,
    tdh_mng_init,
    tdh_mng_key_config,
    tdh_mng_key_freeid,
    tdh_mng_key_reclaimid,
    tdh_mng_rd,
    tdh_mng_vpflushdone,
    tdh_mng_wr,
    tdh_mr_extend,
    tdh_mr_finalize,
    tdh_phymem_cache_wb,
    tdh_phymem_page_rdmd,
    tdh_phymem_page_reclaim,
    tdh_phymem_page_wbinvd,
    tdh_servtd_bind,
    tdh_servtd_prebind,
    tdh_sys_config,
    tdh_sys_info,
    tdh_sys_init,
    tdh_sys_key_config,
    tdh_sys_lp_init,
    tdh_sys_lp_shutdown,
    tdh_sys_rd,
    tdh_sys_rdall,
    tdh_sys_shutdown,
    tdh_sys_tdmr_init,
    tdh_sys_update,
    tdh_vp_addcx,
    tdh_vp_create,
    tdh_vp_enter,
    tdh_vp_flush,
    tdh_vp_init,
    tdh_vp_rd,
    tdh_vp_wr,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_leaf_has_two_rows() {
        for (i, row) in ROWS.iter().enumerate() {
            assert!(
                ROWS[..i].iter().all(|other| other.leaf != row.leaf),
                "{}",
                row.leaf
            );
        }
    }
}
