//! The TD HOB: a list of hand-off blocks that the VMM wrote and nobody measured (PI specification, volume 3).

/// One range of the guest's physical address space.
#[derive(Clone, Copy)]
pub struct Resource {
    /// 0 system memory, 7 memory that must be accepted first.
    pub kind: u32,
    pub start: u64,
    pub length: u64,
}

pub const SYSTEM_MEMORY: u32 = 0;
pub const UNACCEPTED_MEMORY: u32 = 7;

const TYPE_RESOURCE: u16 = 3;
const TYPE_GUID_EXTENSION: u16 = 4;
const TYPE_END: u16 = 0xFFFF;

/// The list as bytes, at most the HOB section long.
pub struct Hobs<'a> {
    bytes: &'a [u8],
}

impl<'a> Hobs<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Type and body (header left out) of each block, up to the end marker or the first malformed one.
    fn blocks(&self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let bytes = self.bytes;
        let mut at = 0;
        core::iter::from_fn(move || {
            let header = bytes.get(at..at + 8)?;
            let kind = u16::from_le_bytes([header[0], header[1]]);
            let length = u16::from_le_bytes([header[2], header[3]]) as usize;
            if kind == TYPE_END || length < 8 {
                return None;
            }
            let body = bytes.get(at + 8..at + length)?;
            at += length;
            Some((kind, body))
        })
    }

    /// The whole list, end marker included: what is measured.
    pub fn bytes(&self) -> &'a [u8] {
        let end = self.blocks().map(|(_, body)| body.len() + 8).sum::<usize>() + 8;
        &self.bytes[..end.min(self.bytes.len())]
    }

    pub fn resources(&self) -> impl Iterator<Item = Resource> {
        // Owner GUID 16, type 4, attributes 4, start 8, length 8.
        self.blocks().filter_map(|(kind, body)| {
            (kind == TYPE_RESOURCE && body.len() >= 40).then(|| Resource {
                kind: u32::from_le_bytes(body[16..20].try_into().unwrap_or_default()),
                start: u64::from_le_bytes(body[24..32].try_into().unwrap_or_default()),
                length: u64::from_le_bytes(body[32..40].try_into().unwrap_or_default()),
            })
        })
    }

    /// The data of the first GUID extension block with this name.
    pub fn extension(&self, guid: &[u8; 16]) -> Option<&'a [u8]> {
        self.blocks()
            .find(|(kind, body)| *kind == TYPE_GUID_EXTENSION && body.get(..16) == Some(guid))
            .map(|(_, body)| &body[16..])
    }
}
