//! How deep the columns of a Parquet file lie in each other, told from its description before the crate `parquet` reads that: it goes into
//! each column by a call of its own, without a bound.
//!
//! The description is Thrift's compact protocol: a struct `FileMetaData`, whose field 2 is the list of all columns, each before those
//! in it, with the number of these in field 5.

/// Kinds of values in the compact protocol.
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
const STRUCT: u8 = 12;
/// Of `FileMetaData`: its columns.
const COLUMNS: u64 = 2;
/// Of a column: how many are in it.
const CHILDREN: u64 = 5;
/// Structures in each other outside of the columns, more than the format has.
const MOST_STRUCTS: usize = 32;

/// Nothing where the bytes are no such description.
pub(super) fn deepest(footer: &[u8]) -> Option<usize> {
    let mut reader = Compact { rest: footer };
    let mut id = 0;
    while let Some(kind) = reader.field(&mut id)? {
        if id != COLUMNS || kind != LIST {
            reader.skip(kind, MOST_STRUCTS)?;
            continue;
        }
        let (count, STRUCT) = reader.list()? else { return None };
        // of the columns that the next one lies in, how many each has to come yet
        let (mut open, mut deepest) = (Vec::new(), 0);
        for _ in 0..count {
            let children = reader.column()?;
            while open.last() == Some(&0) {
                open.pop();
            }
            if let Some(left) = open.last_mut() {
                *left -= 1;
            }
            open.push(children);
            deepest = deepest.max(open.len());
        }
        return Some(deepest);
    }
    None
}

struct Compact<'a> {
    rest: &'a [u8],
}

impl Compact<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn pass(&mut self, bytes: u64) -> Option<()> {
        self.rest = self.rest.get(usize::try_from(bytes).ok()?..)?;
        Some(())
    }

    /// Seven bits a byte, the lowest first.
    fn number(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Some(value);
            }
        }
        None
    }

    /// The kind of the next field, whose number follows `id` or stands by itself; none at the end of the struct.
    fn field(&mut self, id: &mut u64) -> Option<Option<u8>> {
        let head = self.byte()?;
        if head == 0 {
            return Some(None);
        }
        *id = match head >> 4 {
            0 => self.number()? / 2, // as signed numbers are: the sign is the last bit
            more => id.checked_add(u64::from(more))?,
        };
        Some(Some(head & 15))
    }

    /// Length and kind of a list.
    fn list(&mut self) -> Option<(u64, u8)> {
        let head = self.byte()?;
        let count = if head >> 4 == 15 { self.number()? } else { u64::from(head >> 4) };
        // each has a byte at least
        (count <= self.rest.len() as u64).then_some((count, head & 15))
    }

    /// How many columns lie in the next one.
    fn column(&mut self) -> Option<u64> {
        let (mut id, mut children) = (0, 0);
        while let Some(kind) = self.field(&mut id)? {
            if id == CHILDREN && (3..=6).contains(&kind) {
                children = self.number()? / 2;
            } else {
                self.skip(kind, MOST_STRUCTS)?;
            }
        }
        Some(children)
    }

    fn skip(&mut self, kind: u8, deeper: usize) -> Option<()> {
        let deeper = deeper.checked_sub(1)?;
        match kind {
            1 | 2 => {}
            3 => self.pass(1)?,
            4..=6 => self.number().map(drop)?,
            DOUBLE => self.pass(8)?,
            BINARY => {
                let length = self.number()?;
                self.pass(length)?;
            }
            LIST | SET => {
                let (count, kind) = self.list()?;
                (0..count).try_for_each(|_| self.item(kind, deeper))?;
            }
            MAP => {
                let count = self.number()?;
                let kinds = if count > 0 { self.byte()? } else { 0 };
                for _ in 0..count {
                    self.item(kinds >> 4, deeper)?;
                    self.item(kinds & 15, deeper)?;
                }
            }
            STRUCT => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.skip(kind, deeper)?;
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// As [`Compact::skip`], but for truth values, which are a byte in a list and part of the head in a struct.
    fn item(&mut self, kind: u8, deeper: usize) -> Option<()> {
        if kind == 1 || kind == 2 { self.pass(1) } else { self.skip(kind, deeper) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A description with columns that have so many in them.
    fn of(children: &[u8]) -> Vec<u8> {
        // version 2, then the list: long form of its length
        let mut bytes = vec![0x15, 4, 0x19, 0xfc];
        bytes.push(children.len() as u8);
        for n in children {
            bytes.extend([0x48, 1, b'c']); // field 4, its name
            if *n > 0 {
                bytes.extend([0x15, 2 * n]);
            }
            bytes.push(0);
        }
        bytes.push(0);
        bytes
    }

    #[test]
    fn columns_in_columns_are_counted() {
        assert_eq!(deepest(&of(&[2, 0, 0])), Some(2));
        assert_eq!(deepest(&of(&[2, 1, 1, 0, 0])), Some(4));
        assert_eq!(deepest(&of(&[1; 100])), Some(100));
    }

    #[test]
    fn what_is_cut_off_or_no_description_is_told() {
        let whole = of(&[2, 1, 0, 0]);
        let list = whole.len() - 1;
        assert!((0..list).all(|n| deepest(&whole[..n]).is_none()));
        assert_eq!(deepest(&[0xff; 64]), None);
        // a list in a list in a list
        assert_eq!(deepest(&[0x19; 64]), None);
    }
}
