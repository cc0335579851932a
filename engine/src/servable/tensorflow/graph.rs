//! A `GraphDef`, as far as it is looked at before TensorFlow gets it.

use std::collections::HashMap;
use std::ops::Range;

use crate::wire::{Field, Malformed, Reader};

#[derive(Default)]
pub struct Node<'b> {
    pub name: &'b [u8],
    pub op: &'b [u8],
    pub inputs: Vec<&'b [u8]>,
    pub functions: Vec<&'b [u8]>,
    /// Names and `AttrValue`s.
    attributes: Vec<(&'b [u8], &'b [u8])>,
}

/// The body of a function, whose names are its own.
#[derive(Default)]
pub struct Function<'b> {
    pub nodes: Vec<Node<'b>>,
    pub inputs: Vec<&'b [u8]>,
    outputs: Vec<&'b [u8]>,
    /// By the name of the output.
    returns: HashMap<&'b [u8], &'b [u8]>,
}

impl<'b> Function<'b> {
    /// The tensor that is the output in this place.
    pub fn returned(&self, at: usize) -> Option<&'b [u8]> {
        self.returns.get(self.outputs.get(at)?).copied()
    }
}

#[derive(Default)]
pub struct Graph<'b> {
    pub nodes: HashMap<&'b [u8], Node<'b>>,
    pub functions: HashMap<&'b [u8], Function<'b>>,
}

impl<'b> Graph<'b> {
    /// The `GraphDef` at `range`.
    ///
    /// # Errors
    /// It is none.
    pub fn read(bytes: &'b [u8], range: Range<usize>) -> Result<Self, Malformed> {
        let mut graph = Self::default();
        let mut reader = Reader::within(bytes, range);
        while let Some((number, field)) = reader.next()? {
            match (number, field) {
                // node
                (1, Field::Bytes(range)) => {
                    let node = Node::read(bytes, range)?;
                    graph.nodes.insert(node.name, node);
                }
                // library
                (2, Field::Bytes(range)) => {
                    let mut library = Reader::within(bytes, range);
                    while let Some((number, field)) = library.next()? {
                        if let (1, Field::Bytes(range)) = (number, field) {
                            let (name, function) = function(bytes, range)?;
                            graph.functions.insert(name, function);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(graph)
    }
}

/// `^name`, `name:1` and `name` are all of the operation `name`.
pub fn operation_name(tensor: &[u8]) -> &[u8] {
    let tensor = tensor.strip_prefix(b"^").unwrap_or(tensor);
    tensor.split(|&byte| byte == b':').next().unwrap_or(tensor)
}

/// Name and body of the `FunctionDef` at `range`.
fn function(bytes: &[u8], range: Range<usize>) -> Result<(&[u8], Function<'_>), Malformed> {
    let mut name: &[u8] = &[];
    let mut function = Function::default();
    let mut reader = Reader::within(bytes, range);
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            // signature
            (1, Field::Bytes(range)) => {
                let mut signature = Reader::within(bytes, range);
                while let Some((number, field)) = signature.next()? {
                    let Field::Bytes(range) = field else { continue };
                    match number {
                        1 => name = &bytes[range],
                        2 => function.inputs.extend(first_bytes(bytes, range, 1)?),
                        3 => function.outputs.extend(first_bytes(bytes, range, 1)?),
                        _ => {}
                    }
                }
            }
            // node_def
            (3, Field::Bytes(range)) => function.nodes.push(Node::read(bytes, range)?),
            // ret
            (4, Field::Bytes(range)) => {
                let output = first_bytes(bytes, range.clone(), 1)?;
                let tensor = first_bytes(bytes, range, 2)?;
                function.returns.extend(output.zip(tensor));
            }
            _ => {}
        }
    }
    Ok((name, function))
}

impl<'b> Node<'b> {
    /// The `AttrValue` of this name; empty where there is none.
    pub fn attribute(&self, name: &[u8]) -> &'b [u8] {
        let found = self.attributes.iter().find(|(other, _)| *other == name);
        found.map_or(&[], |(_, value)| value)
    }

    /// The first tensor that it makes, as feeds and fetches name it.
    pub fn output(&self) -> String {
        format!("{}:0", String::from_utf8_lossy(self.name))
    }

    /// What it takes, without what it only comes after.
    pub fn tensors(&self) -> Vec<&'b [u8]> {
        self.inputs.iter().copied().filter(|input| !input.starts_with(b"^")).collect()
    }

    /// What a resource is known by.
    pub fn shared_name(&self) -> &'b [u8] {
        let value = self.attribute(b"shared_name");
        let name = first_bytes(value, 0..value.len(), 2).ok().flatten();
        name.filter(|name| !name.is_empty()).unwrap_or(self.name)
    }

    /// The `NodeDef` at `range`.
    fn read(bytes: &'b [u8], range: Range<usize>) -> Result<Self, Malformed> {
        let mut node = Self::default();
        let mut reader = Reader::within(bytes, range);
        while let Some((number, field)) = reader.next()? {
            let Field::Bytes(range) = field else { continue };
            match number {
                1 => node.name = &bytes[range],
                2 => node.op = &bytes[range],
                3 => node.inputs.push(&bytes[range]),
                // attr, whose values are AttrValue
                5 => {
                    let name = first_bytes(bytes, range.clone(), 1)?;
                    let value = first_bytes(bytes, range.clone(), 2)?;
                    node.attributes.extend(name.zip(value));
                    let mut entry = Reader::within(bytes, range);
                    while let Some((number, field)) = entry.next()? {
                        if let (2, Field::Bytes(range)) = (number, field) {
                            functions(bytes, range, &mut node.functions)?;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(node)
    }
}

/// The functions that the `AttrValue` at `range` names, alone or in a list.
fn functions<'b>(
    bytes: &'b [u8],
    range: Range<usize>,
    found: &mut Vec<&'b [u8]>,
) -> Result<(), Malformed> {
    let mut value = Reader::within(bytes, range);
    while let Some((number, field)) = value.next()? {
        match (number, field) {
            // func
            (10, Field::Bytes(range)) => found.extend(first_bytes(bytes, range, 1)?),
            // list
            (1, Field::Bytes(range)) => {
                let mut list = Reader::within(bytes, range);
                while let Some((number, field)) = list.next()? {
                    if let (9, Field::Bytes(range)) = (number, field) {
                        found.extend(first_bytes(bytes, range, 1)?);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The first field with this number, where it is of bytes.
pub fn first_bytes(
    bytes: &[u8],
    range: Range<usize>,
    wanted: u32,
) -> Result<Option<&[u8]>, Malformed> {
    let mut reader = Reader::within(bytes, range);
    while let Some((number, field)) = reader.next()? {
        if let (true, Field::Bytes(range)) = (number == wanted, field) {
            return Ok(Some(&bytes[range]));
        }
    }
    Ok(None)
}
