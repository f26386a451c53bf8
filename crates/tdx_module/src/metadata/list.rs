//! Metadata lists: sequences of fields in one buffer (host-metadata.md 6.1).

use super::{Accessor, Field, Scope};
use crate::refusal::Stop;
use alloc::vec::Vec;
use tdx_abi::{FieldId, Status};

/// Bytes of the list header and of a sequence header.
const HEADER: usize = 8;
/// Fields that one sequence can hold.
const MAX_FIELDS: usize = 512;

/// A list that was made, and where the next one goes on.
pub struct List {
    /// The bytes used, header included.
    pub bytes: Vec<u8>,
    /// The null id when everything is in the list.
    pub next: FieldId,
    pub status: Status,
}

/// Makes a list of at most `capacity` bytes, from `start` or from the beginning.
///
/// `element` reads one element of a field, already masked.
pub fn dump(
    scope: &Scope,
    accessor: Accessor,
    start: Option<FieldId>,
    capacity: usize,
    mut element: impl FnMut(&Field) -> Result<u64, Stop>,
) -> Result<List, Stop> {
    let mut at = match start {
        None => scope.first_field(accessor),
        Some(id) => {
            let field = scope.find(id)?;
            let whole = field.element % u32::from(field.row.num_elements) == 0
                && id.element_size_code() == field.row.id.element_size_code()
                && (id.field_code() - field.row.id.field_code()) % field.row.id.code_step() as u64
                    == 0;
            if !whole {
                return Err(Status::METADATA_FIELD_ID_INCORRECT.into());
            }
            match accessor.masks(field.row).read {
                // A field that the caller may not read is passed over.
                0 => scope.next_field(accessor, &field),
                _ => Some(field),
            }
        }
    };
    let mut list = Builder::default();
    list.bytes.resize(HEADER, 0);
    let mut status = Status::SUCCESS;
    while let Some(field) = at {
        let elements = usize::from(field.row.num_elements);
        let appends = list.continues_with(&field);
        let needed = 8 * elements + if appends { 0 } else { HEADER };
        if list.bytes.len() + needed > capacity {
            status = Status::METADATA_LIST_OVERFLOW;
            break;
        }
        if !appends {
            list.open(&field);
        }
        for n in 0..elements as u32 {
            let one = Field {
                id: field.id.element(n),
                element: field.element + n,
                ..field
            };
            let value = element(&one)?;
            list.bytes.extend(value.to_le_bytes());
        }
        list.count(&field);
        at = scope.next_field(accessor, &field);
    }
    let (bytes, sequences) = list.finish();
    Ok(List {
        bytes: with_header(bytes, sequences),
        next: at.map_or(FieldId::NULL, |field| field.id),
        status,
    })
}

/// The sequence that is being written.
#[derive(Default)]
struct Builder {
    bytes: Vec<u8>,
    sequences: u16,
    /// Where the open sequence's header is, its first field, its length and the code that would go on.
    open: Option<Open>,
}

struct Open {
    header: usize,
    first: Field,
    fields: usize,
    next_code: u64,
}

impl Builder {
    fn continues_with(&self, field: &Field) -> bool {
        self.open.as_ref().is_some_and(|open| {
            let first = &open.first;
            first.id.class_code() == field.id.class_code()
                && open.next_code == field.id.field_code()
                && first.row.num_elements == field.row.num_elements
                && first.row.id.element_size_code() == field.row.id.element_size_code()
                && open.fields < MAX_FIELDS
        })
    }
    fn open(&mut self, field: &Field) {
        self.close();
        self.open = Some(Open {
            header: self.bytes.len(),
            first: *field,
            fields: 0,
            next_code: 0,
        });
        self.bytes.extend([0; HEADER]);
        self.sequences += 1;
    }
    fn count(&mut self, field: &Field) {
        if let Some(open) = &mut self.open {
            open.fields += 1;
            let stride = u64::from(field.row.num_elements) * u64::from(field.row.id.code_step());
            open.next_code = field.id.field_code() + stride;
        }
    }
    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            let id = open
                .first
                .id
                .with_last_element_in_field(u64::from(open.first.row.num_elements) - 1)
                .with_last_field_in_sequence(open.fields as u64 - 1)
                .with_write_mask_valid(0);
            self.bytes[open.header..open.header + HEADER].copy_from_slice(&id.0.to_le_bytes());
        }
    }
    fn finish(mut self) -> (Vec<u8>, u16) {
        self.close();
        (self.bytes, self.sequences)
    }
}

fn with_header(mut bytes: Vec<u8>, sequences: u16) -> Vec<u8> {
    let size = bytes.len() as u16;
    bytes[..2].copy_from_slice(&size.to_le_bytes());
    bytes[2..4].copy_from_slice(&sequences.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(start: Option<FieldId>, capacity: usize) -> List {
        let scope = Scope::sys(false);
        dump(&scope, Accessor::Host, start, capacity, |_| Ok(7))
            .unwrap_or_else(|_| panic!("a list"))
    }

    /// host-metadata.md 1.3: the whole list of the platform takes 3,128 bytes in 36 sequences.
    #[test]
    fn all_fields_of_the_platform_fit_in_one_page() {
        let list = whole(None, 4096);
        assert_eq!(list.status, Status::SUCCESS);
        assert!(list.next.is_null());
        assert_eq!(list.bytes.len(), 3128);
        assert_eq!(u16::from_le_bytes([list.bytes[0], list.bytes[1]]), 3128);
        assert_eq!(list.bytes[2], 36);
    }

    #[test]
    fn a_list_that_overflowed_goes_on_where_it_stopped() {
        let (mut start, mut words, mut calls) = (None, 0, 0);
        loop {
            let list = whole(start, 512);
            words += list.bytes.len() / 8 - 1 - usize::from(list.bytes[2]);
            calls += 1;
            if list.next.is_null() {
                break;
            }
            assert_eq!(list.status, Status::METADATA_LIST_OVERFLOW);
            start = Some(list.next);
        }
        assert!(calls > 6);
        assert_eq!(words, 3128 / 8 - 1 - 36);
    }

    #[test]
    fn a_list_starts_at_the_start_of_a_field() {
        let scope = Scope::sys(false);
        let start = |id| dump(&scope, Accessor::Host, Some(FieldId(id)), 4096, |_| Ok(0)).is_ok();
        assert!(start(0x9900_0003_0000_0502)); // CPUID_CONFIG_VALUES[1]
        assert!(!start(0x9900_0003_0000_0501)); // its second half
        assert!(!start(0x9900_0002_0000_0502)); // another element size
    }
}
