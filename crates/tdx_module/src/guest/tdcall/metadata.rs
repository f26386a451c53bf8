//! TDG.VM.RD, TDG.VM.WR, TDG.VP.RD, TDG.VP.WR, TDG.SYS.RD and TDG.SYS.RDALL (guest-leaves.md 9).

use super::{Diversion, LeafEnd, invalid};
use crate::guest::Guest;
use crate::guest::operand::{Half, READ_WRITE};
use crate::machine::Machine;
use crate::metadata::td::TdFields;
use crate::metadata::vp::VpFields;
use crate::metadata::{self, Accessor, Request};
use crate::refusal::Stop;
use tdx_abi::{FieldContext, FieldId, OperandId, Status};
use x86_arch::Gpr;

impl From<Stop> for Diversion {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Refused(refusal) => Diversion::Complete(refusal.status()),
            Stop::Broken(broken) => Diversion::Broken(broken),
        }
    }
}

impl<M: Machine> Guest<'_, M> {
    fn td_fields(&self) -> TdFields<'_> {
        TdFields {
            td: self.td,
            sys: self.sys,
            tsc: self.data.last_exit_tsc,
            accessor: Accessor::Guest,
            order: self.order,
        }
    }
    fn vp_fields(&mut self) -> VpFields<'_, M> {
        VpFields {
            module: self.module,
            sys: self.sys,
            td: self.td,
            vp: self.vp,
            tsc: self.data.last_exit_tsc,
            data: self.data,
            accessor: Accessor::Guest,
            host_debugctl: 0,
        }
    }

    pub(super) fn vm_rd(&mut self, version: u8) -> LeafEnd {
        let id = self.get(Gpr::Rdx);
        self.set(Gpr::R8, 0);
        if version >= 1 {
            self.set(Gpr::Rdx, FieldId::NULL.0);
        }
        if version > 1 {
            return Err(invalid(OperandId::RAX));
        }
        if self.get(Gpr::Rcx) != 0 {
            return Err(invalid(OperandId::RCX));
        }
        let id = match metadata::parse(id, FieldContext::Td)? {
            Request::First if version == 1 => {
                let fields = self.td_fields();
                let first = fields.scope().first_readable(Accessor::Guest);
                self.set(Gpr::Rdx, first.0);
                return Err(Status::METADATA_FIRST_FIELD_ID_IN_CONTEXT.into());
            }
            Request::First => return Err(Status::METADATA_FIELD_ID_INCORRECT.into()),
            Request::Element(id) => id,
        };
        let (value, next) = self.td_fields().read(id)?;
        self.set(Gpr::R8, value);
        if version == 1 {
            self.set(Gpr::Rdx, next.0);
        }
        Ok(Status::SUCCESS)
    }

    pub(super) fn vm_wr(&mut self) -> LeafEnd {
        let (id, value, mask) = (self.get(Gpr::Rdx), self.get(Gpr::R8), self.get(Gpr::R9));
        self.set(Gpr::R8, 0);
        if self.get(Gpr::Rcx) != 0 {
            return Err(invalid(OperandId::RCX));
        }
        let id = metadata::single(id, FieldContext::Td)?;
        let previous = self.td_fields().write(id, value, mask)?;
        self.set(Gpr::R8, previous);
        Ok(Status::SUCCESS)
    }

    pub(super) fn vp_rd(&mut self) -> LeafEnd {
        let id = self.get(Gpr::Rdx);
        self.set(Gpr::R8, 0);
        self.set(Gpr::Rdx, FieldId::NULL.0);
        if self.get(Gpr::Rcx) != 0 {
            return Err(invalid(OperandId::RCX));
        }
        let id = match metadata::parse(id, FieldContext::Vp)? {
            Request::First => {
                let first = self.vp_fields().scope().first_readable(Accessor::Guest);
                self.set(Gpr::Rdx, first.0);
                return Err(Status::METADATA_FIRST_FIELD_ID_IN_CONTEXT.into());
            }
            Request::Element(id) => id,
        };
        let (value, next) = self.vp_fields().read(id)?;
        self.set(Gpr::R8, value);
        self.set(Gpr::Rdx, next.0);
        Ok(Status::SUCCESS)
    }

    pub(super) fn vp_wr(&mut self) -> LeafEnd {
        let (id, value, mask) = (self.get(Gpr::Rdx), self.get(Gpr::R8), self.get(Gpr::R9));
        self.set(Gpr::R8, 0);
        if self.get(Gpr::Rcx) != 0 {
            return Err(invalid(OperandId::RCX));
        }
        let id = metadata::single(id, FieldContext::Vp)?;
        let previous = self.vp_fields().write(id, value, mask)?;
        self.set(Gpr::R8, previous);
        Ok(Status::SUCCESS)
    }

    pub(super) fn sys_rd(&mut self) -> LeafEnd {
        let id = self.get(Gpr::Rdx);
        self.set(Gpr::Rdx, FieldId::NULL.0);
        self.set(Gpr::R8, 0);
        let id = match metadata::parse(id, FieldContext::Sys)? {
            Request::First => {
                let first = self.module.sys_scope().first_readable(Accessor::Guest);
                self.set(Gpr::Rdx, first.0);
                return Err(Status::METADATA_FIRST_FIELD_ID_IN_CONTEXT.into());
            }
            Request::Element(id) => id,
        };
        let (value, next) = self.module.sys_read(Accessor::Guest, id)?;
        self.set(Gpr::R8, value);
        self.set(Gpr::Rdx, next.0);
        Ok(Status::SUCCESS)
    }

    pub(super) fn sys_rdall(&mut self) -> LeafEnd {
        let (page, start) = (self.get(Gpr::Rdx), self.get(Gpr::R8));
        self.set(Gpr::R8, FieldId::NULL.0);
        if !page.is_multiple_of(4096) {
            return Err(invalid(OperandId::RDX));
        }
        let to = self.operand(page, READ_WRITE, Half::Private, OperandId::RDX)?;
        let list = self.module.sys_list(Accessor::Guest, start)?;
        self.write_memory(to, &list.bytes)?;
        self.set(Gpr::R8, list.next.0);
        Ok(list.status)
    }
}
