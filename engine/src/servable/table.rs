//! Look-up tables: keys in, the columns of their rows out.
//!
//! All keys stand one after another in one block, and so does each column; the index holds row
//! numbers only. A row costs its own bytes, 4 for where each text ends, and 5 to 10 for the index.

use std::hash::BuildHasher;

use bytes::Bytes;
use hashbrown::{DefaultHashBuilder, HashTable};

use crate::servable::aliases::{gather, Aliases};
use crate::servable::{RunOptions, Servable, Signatures};
use crate::status::{Result, Status};
use crate::tensor::{Buffer, DType, Data, StringsBuilder, Tensor};

/// The output that says which keys there are.
pub const FOUND: &str = "found";
/// So many keys are looked up sooner than another thread is woken.
const QUICK: usize = 256;
/// How much of a key is quoted.
const QUOTED: usize = 80;

/// Elements of one type, a row after another.
#[derive(Debug)]
pub enum Column {
    /// Rows of `row_bytes` each.
    Dense { dtype: DType, row_shape: Vec<i64>, row_bytes: usize, bytes: Vec<u8> },
    /// One text in each row.
    Texts(Texts),
}

/// Texts in one block, and where each ends.
#[derive(Debug, Default)]
pub struct Texts {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Texts {
    /// # Errors
    /// RESOURCE_EXHAUSTED beyond 4 GiB.
    pub fn push(&mut self, text: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(text);
        let end = u32::try_from(self.bytes.len()).map_err(|_| {
            Status::resource_exhausted("The texts of one column have more than 4 GiB; use shards")
        })?;
        self.ends.push(end);
        Ok(())
    }

    fn get(&self, row: usize) -> &[u8] {
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        &self.bytes[start..self.ends[row] as usize]
    }

    fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    fn memory_bytes(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * size_of::<u32>()
    }
}

impl Column {
    /// An empty column.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when there can be none of that type and shape.
    pub fn new(dtype: DType, row_shape: Vec<i64>) -> Result<Self> {
        if dtype == DType::String {
            if !row_shape.is_empty() {
                return Err(Status::invalid_argument("A text column has one text in each row"));
            }
            return Ok(Self::Texts(Texts::default()));
        }
        let size = dtype.size().zip(crate::tensor::num_elements(&row_shape));
        let row_bytes = size.and_then(|(size, elements)| size.checked_mul(elements));
        let row_bytes = row_bytes
            .ok_or_else(|| Status::invalid_argument("A column cannot have this type and shape"))?;
        Ok(Self::Dense { dtype, row_shape, row_bytes, bytes: Vec::new() })
    }

    /// Append rows of dense elements.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when they are no whole number of rows, or the column holds texts.
    pub fn extend(&mut self, data: &[u8]) -> Result<()> {
        match self {
            Self::Dense { row_bytes, bytes, .. } if data.len() % (*row_bytes).max(1) == 0 => {
                bytes.extend_from_slice(data);
                Ok(())
            }
            _ => Err(Status::invalid_argument("These are no rows of this column")),
        }
    }

    /// Append one row of text.
    ///
    /// # Errors
    /// As [`Texts::push`], or INVALID_ARGUMENT when the column holds no texts.
    pub fn push_text(&mut self, text: &[u8]) -> Result<()> {
        match self {
            Self::Texts(texts) => texts.push(text),
            Self::Dense { .. } => Err(Status::invalid_argument("This column holds no texts")),
        }
    }

    pub fn rows(&self) -> usize {
        match self {
            Self::Dense { row_bytes, bytes, .. } => bytes.len() / (*row_bytes).max(1),
            Self::Texts(texts) => texts.ends.len(),
        }
    }

    fn key(&self, row: usize) -> &[u8] {
        match self {
            Self::Dense { row_bytes, bytes, .. } => &bytes[row * row_bytes..(row + 1) * row_bytes],
            Self::Texts(texts) => texts.get(row),
        }
    }

    fn shrink(&mut self) {
        match self {
            Self::Dense { bytes, .. } => bytes.shrink_to_fit(),
            Self::Texts(texts) => texts.shrink(),
        }
    }

    fn memory_bytes(&self) -> usize {
        match self {
            Self::Dense { bytes, .. } => bytes.capacity(),
            Self::Texts(texts) => texts.memory_bytes(),
        }
    }

    /// The elements of these rows; `default` for those that are missing.
    fn rows_of(&self, rows: &[Option<u32>], default: &[u8]) -> Tensor {
        let count = rows.len() as i64;
        match self {
            Self::Dense { dtype, row_shape, row_bytes, .. } => {
                let mut buffer = Buffer::zeroed(rows.len() * row_bytes);
                if *row_bytes > 0 {
                    let targets = buffer.as_mut_slice().chunks_exact_mut(*row_bytes);
                    for (target, row) in targets.zip(rows) {
                        target.copy_from_slice(row.map_or(default, |row| self.key(row as usize)));
                    }
                }
                let shape = [&[count], row_shape.as_slice()].concat();
                Tensor::dense(*dtype, shape, buffer)
            }
            Self::Texts(texts) => {
                let mut strings = StringsBuilder::default();
                for row in rows {
                    strings.push(row.map_or(default, |row| texts.get(row as usize)));
                }
                Tensor::strings(vec![count], strings.build())
            }
        }
    }
}

/// A column that is looked up, by the name of its output.
#[derive(Debug)]
pub struct Value {
    pub alias: String,
    pub column: Column,
    /// The row of a key that is not there.
    pub default: Vec<u8>,
}

/// A table that is looked up in; nothing of it changes.
#[derive(Debug)]
pub struct Rows {
    keys: Column,
    values: Vec<Value>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// Whether a key that is missing fails its request.
    is_strict: bool,
}

impl Rows {
    /// # Errors
    /// INVALID_ARGUMENT when columns have different lengths, a default does not fit, or a key is
    /// there twice; RESOURCE_EXHAUSTED for more than 2^32 rows.
    pub fn new(mut keys: Column, mut values: Vec<Value>, is_strict: bool) -> Result<Self> {
        let count = u32::try_from(keys.rows())
            .map_err(|_| Status::resource_exhausted("A table has at most 2^32 rows"))?;
        keys.shrink();
        for value in &mut values {
            value.column.shrink();
            let fits = match &value.column {
                Column::Dense { row_bytes, .. } => value.default.len() == *row_bytes,
                Column::Texts(_) => true,
            };
            if value.column.rows() != count as usize || !fits {
                return Err(Status::invalid_argument(format!(
                    "Column {} has other rows than the keys",
                    value.alias
                )));
            }
        }
        let hasher = DefaultHashBuilder::default();
        let mut index = HashTable::with_capacity(count as usize);
        for row in 0..count {
            let key = keys.key(row as usize);
            let hash = hasher.hash_one(key);
            let entry = index.entry(
                hash,
                |other: &u32| keys.key(*other as usize) == key,
                |other| hasher.hash_one(keys.key(*other as usize)),
            );
            if let hashbrown::hash_table::Entry::Occupied(other) = entry {
                return Err(Status::invalid_argument(format!(
                    "Key {} is in rows {} and {}",
                    quoted(&keys, key),
                    u64::from(*other.get()) + 1,
                    u64::from(row) + 1
                )));
            }
            entry.insert(row);
        }
        Ok(Self { keys, values, index, hasher, is_strict })
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// What the table takes in memory.
    pub fn memory_bytes(&self) -> usize {
        let values: usize = self.values.iter().map(|value| value.column.memory_bytes()).sum();
        self.keys.memory_bytes() + values + self.index.allocation_size()
    }

    fn find(&self, key: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        self.index.find(hash, |row| self.keys.key(*row as usize) == key).copied()
    }

    fn look_up(&self, keys: &Tensor) -> Result<Vec<Option<u32>>> {
        let rows: Vec<Option<u32>> = match (keys.data(), &self.keys) {
            (Data::Strings(keys), _) => keys.iter().map(|key| self.find(key)).collect(),
            (Data::Dense(buffer), Column::Dense { row_bytes, .. }) => {
                buffer.as_slice().chunks_exact(*row_bytes).map(|key| self.find(key)).collect()
            }
            (Data::Dense(_), Column::Texts(_)) => {
                return Err(Status::internal("The keys are of another type"));
            }
        };
        if self.is_strict {
            if let Some(at) = rows.iter().position(Option::is_none) {
                let key = match keys.data() {
                    Data::Strings(strings) => strings.get(at),
                    Data::Dense(buffer) => {
                        let size = buffer.as_slice().len() / rows.len();
                        &buffer.as_slice()[at * size..(at + 1) * size]
                    }
                };
                let key = quoted(&self.keys, key);
                return Err(Status::not_found(format!("Key {key} is not in the table")));
            }
        }
        Ok(rows)
    }
}

/// A key as errors show it.
fn quoted(keys: &Column, key: &[u8]) -> String {
    match keys {
        Column::Dense { dtype: DType::Int64, .. } => {
            i64::from_le_bytes(key.try_into().unwrap_or_default()).to_string()
        }
        _ => format!("{:?}", String::from_utf8_lossy(&key[..key.len().min(QUOTED)])),
    }
}

/// A table as a servable, with one input and an output for each column.
pub struct Table {
    rows: Rows,
    aliases: Aliases,
}

impl Table {
    /// # Errors
    /// INVALID_ARGUMENT when the bytes are no `SignatureDefMap`.
    pub fn new(rows: Rows, signature_def_map: Bytes) -> Result<Self> {
        Ok(Self { rows, aliases: Aliases::new(signature_def_map)? })
    }
}

impl Servable for Table {
    fn signatures(&self) -> &Signatures {
        self.aliases.signatures()
    }

    fn signature_def_map(&self) -> &Bytes {
        self.aliases.signature_def_map()
    }

    fn is_quick(&self, feeds: &[(String, Tensor)], _fetches: &[String]) -> bool {
        feeds.iter().all(|(_, keys)| keys.num_elements() <= QUICK)
    }

    fn run(
        &self,
        feeds: Vec<(String, Tensor)>,
        fetches: &[String],
        _options: RunOptions,
    ) -> Result<Vec<Tensor>> {
        let mut results: Vec<Option<Tensor>> = fetches.iter().map(|_| None).collect();
        for call in self.aliases.calls(&feeds, fetches)? {
            let keys = call.inputs.first();
            let (_, keys) = keys.ok_or_else(|| Status::invalid_argument("No keys are given"))?;
            let rows = self.rows.look_up(keys)?;
            for (at, alias) in call.outputs {
                let value = self.rows.values.iter().find(|value| value.alias == alias);
                results[at] = match value {
                    Some(value) => Some(value.column.rows_of(&rows, &value.default)),
                    None if alias == FOUND => Some(found(&rows)),
                    None => None,
                };
            }
        }
        gather(results)
    }
}

fn found(rows: &[Option<u32>]) -> Tensor {
    let bytes: Vec<u8> = rows.iter().map(|row| u8::from(row.is_some())).collect();
    Tensor::dense(DType::Bool, vec![rows.len() as i64], Buffer::copy_of(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servable::aliases::tests::signature_def_map;

    fn texts(values: &[&str]) -> Column {
        let mut column = Column::new(DType::String, vec![]).unwrap();
        for value in values {
            column.push_text(value.as_bytes()).unwrap();
        }
        column
    }

    fn pairs(values: &[[u8; 2]]) -> Column {
        let mut column = Column::new(DType::UInt8, vec![2]).unwrap();
        column.extend(&values.concat()).unwrap();
        column
    }

    fn table(is_strict: bool) -> Table {
        let value = |alias: &str, column, default: &[u8]| Value {
            alias: alias.to_owned(),
            column,
            default: default.to_vec(),
        };
        let values = vec![
            value("pair", pairs(&[[1, 2], [3, 4]]), &[9, 9]),
            value("text", texts(&["one", ""]), b"none"),
        ];
        let rows = Rows::new(texts(&["a", "bb"]), values, is_strict).unwrap();
        let outputs: &[(&str, DType, &[i64])] = &[
            ("found", DType::Bool, &[-1]),
            ("pair", DType::UInt8, &[-1, 2]),
            ("text", DType::String, &[-1]),
        ];
        let map = signature_def_map(&[("s", &[("keys", DType::String, &[-1])], outputs)]);
        Table::new(rows, map).unwrap()
    }

    fn ask(table: &Table, keys: &[&str]) -> Result<Vec<Tensor>> {
        let signature = &table.signatures()["s"];
        let keys = Tensor::strings(vec![keys.len() as i64], keys.iter().collect());
        let feeds = vec![(signature.inputs["keys"].name.clone(), keys)];
        let fetches: Vec<String> =
            signature.outputs.values().map(|info| info.name.clone()).collect();
        table.run(feeds, &fetches, RunOptions::default())
    }

    #[test]
    fn rows_come_in_the_order_of_the_keys_and_missing_ones_are_told() {
        let outputs = ask(&table(false), &["bb", "?", "a", "bb"]).unwrap();

        assert_eq!(outputs[0].buffer().unwrap().as_slice(), [1, 0, 1, 1]);
        assert_eq!(outputs[1].buffer().unwrap().as_slice(), [3, 4, 9, 9, 1, 2, 3, 4]);
        assert_eq!(outputs[1].shape(), [4, 2]);
        let texts: Vec<_> = outputs[2].as_strings().unwrap().iter().collect();
        assert_eq!(texts, [&b""[..], b"none", b"one", b""]);
    }

    #[test]
    fn no_keys_get_no_rows() {
        let shapes: Vec<_> =
            ask(&table(false), &[]).unwrap().iter().map(|t| t.shape().to_vec()).collect();

        assert_eq!(shapes, [vec![0], vec![0, 2], vec![0]]);
    }

    #[test]
    fn a_strict_table_names_the_key_that_is_missing() {
        let refused = ask(&table(true), &["a", "x\n"]).unwrap_err();

        assert_eq!(refused, Status::not_found("Key \"x\\n\" is not in the table"));
        assert!(ask(&table(true), &["a", "bb"]).is_ok());
    }

    #[test]
    fn tables_that_make_no_sense_are_refused() {
        let twice = Rows::new(texts(&["a", "b", "a"]), vec![], false).unwrap_err();
        assert_eq!(twice, Status::invalid_argument("Key \"a\" is in rows 1 and 3"));
        let short = Value { alias: "v".into(), column: pairs(&[]), default: vec![0, 0] };
        assert!(Rows::new(texts(&["a"]), vec![short], false).is_err());
        let default = Value { alias: "v".into(), column: pairs(&[[0, 0]]), default: vec![0] };
        assert!(Rows::new(texts(&["a"]), vec![default], false).is_err());
        assert!(pairs(&[]).extend(&[1]).is_err());
    }
}
