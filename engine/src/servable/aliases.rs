//! Signatures of servables that have no graph, whose tensors are known by signature and alias.
//!
//! Requests are run by tensor names. Here these are made when the servable is, so that a run can
//! tell its signature; what a run feeds is checked here too, as there is no graph to do it.

use std::collections::HashMap;

use bytes::Bytes;

use crate::servable::{signature_def, Signatures, TensorInfo};
use crate::status::{Result, Status};
use crate::tensor::{DType, Tensor};

/// The signatures of a servable, and what the tensor names of its runs stand for.
pub struct Aliases {
    signatures: Signatures,
    signature_def_map: Bytes,
    /// Tensor name to signature and alias.
    names: HashMap<String, (String, String)>,
    is_checked: bool,
}

/// One signature of a run: `MultiInference` fetches from several at once.
pub struct Call<'r> {
    pub signature_name: &'r str,
    pub inputs: Vec<(&'r str, &'r Tensor)>,
    /// Where each output stands among the fetches, and its alias.
    pub outputs: Vec<(usize, &'r str)>,
}

impl Call<'_> {
    pub fn output_names(&self) -> Vec<&str> {
        self.outputs.iter().map(|(_, alias)| *alias).collect()
    }
}

impl Aliases {
    /// # Errors
    /// INVALID_ARGUMENT when the bytes are no `SignatureDefMap`.
    pub fn new(signature_def_map: Bytes) -> Result<Self> {
        let mut signatures = signature_def::signatures(&signature_def_map)
            .ok_or_else(|| Status::invalid_argument("The signatures are no SignatureDefMap"))?;
        let mut names = HashMap::new();
        for (name, signature) in &mut signatures {
            let infos = signature.inputs.iter_mut().chain(signature.outputs.iter_mut());
            for (at, (alias, info)) in infos.enumerate() {
                // Inputs and outputs may have the same alias.
                info.name = format!("{name}\n{at}\n{alias}");
                names.insert(info.name.clone(), (name.clone(), alias.clone()));
            }
        }
        Ok(Self { signatures, signature_def_map, names, is_checked: true })
    }

    /// As [`Aliases::new`], for a servable that checks by itself what it is fed.
    ///
    /// # Errors
    /// As there.
    pub fn unchecked(signature_def_map: Bytes) -> Result<Self> {
        Ok(Self { is_checked: false, ..Self::new(signature_def_map)? })
    }

    pub fn signatures(&self) -> &Signatures {
        &self.signatures
    }

    pub fn signature_def_map(&self) -> &Bytes {
        &self.signature_def_map
    }

    /// The signature that a tensor name of a run belongs to.
    pub fn signature_of(&self, name: &str) -> Option<&str> {
        self.names.get(name).map(|(signature, _)| signature.as_str())
    }

    /// A run, taken apart into one call of each signature that it fetches from.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when what is fed is not what the signature takes.
    pub fn calls<'r>(
        &'r self,
        feeds: &'r [(String, Tensor)],
        fetches: &[String],
    ) -> Result<Vec<Call<'r>>> {
        let mut calls: Vec<Call<'r>> = Vec::new();
        for (at, fetch) in fetches.iter().enumerate() {
            let (name, alias) = self.alias(fetch)?;
            match calls.iter_mut().find(|call| call.signature_name == name) {
                Some(call) => call.outputs.push((at, alias)),
                None => calls.push(Call {
                    signature_name: name,
                    inputs: self.inputs(name, feeds)?,
                    outputs: vec![(at, alias)],
                }),
            }
        }
        Ok(calls)
    }

    fn inputs<'r>(
        &'r self,
        signature_name: &str,
        feeds: &'r [(String, Tensor)],
    ) -> Result<Vec<(&'r str, &'r Tensor)>> {
        let mut inputs = Vec::with_capacity(feeds.len());
        for (name, tensor) in feeds {
            let (fed, alias) = self.alias(name)?;
            if fed == signature_name {
                let info = self.signatures[fed].inputs.get(alias);
                if let Some(info) = info.filter(|_| self.is_checked) {
                    check(inputs.len(), signature_name, alias, info, tensor)?;
                }
                inputs.push((alias, tensor));
            }
        }
        Ok(inputs)
    }

    fn alias(&self, name: &str) -> Result<(&str, &str)> {
        let found = self.names.get(name);
        found
            .map(|(signature, alias)| (signature.as_str(), alias.as_str()))
            .ok_or_else(|| Status::internal("A run names an unknown tensor"))
    }
}

/// Put what calls returned into the order of the fetches.
///
/// # Errors
/// INTERNAL when something is missing.
pub fn gather(results: Vec<Option<Tensor>>) -> Result<Vec<Tensor>> {
    let all = results.into_iter().collect::<Option<_>>();
    all.ok_or_else(|| Status::internal("The servable left out an output"))
}

/// Whether a tensor of this shape is one that the signature takes or gives.
pub fn fits(info: &TensorInfo, shape: &[i64]) -> bool {
    info.shape.as_ref().is_none_or(|sizes| {
        sizes.len() == shape.len()
            && sizes.iter().zip(shape).all(|(size, given)| *size < 0 || size == given)
    })
}

/// A shape as a signature has it: `[?,3]`, `[...]` for any rank.
pub fn declared_shape(info: &TensorInfo) -> String {
    let Some(sizes) = &info.shape else { return "[...]".to_owned() };
    let size = |size: &i64| if *size < 0 { "?".to_owned() } else { size.to_string() };
    format!("[{}]", sizes.iter().map(size).collect::<Vec<_>>().join(","))
}

fn check(
    position: usize,
    signature_name: &str,
    alias: &str,
    info: &TensorInfo,
    tensor: &Tensor,
) -> Result<()> {
    let expected = DType::from_number(info.dtype);
    if expected.is_some_and(|expected| expected != tensor.dtype()) {
        return Err(Status::invalid_argument(format!(
            "Expects arg[{position}] to be {} but {} is provided",
            expected.map_or("", DType::short_name),
            tensor.dtype().short_name()
        )));
    }
    if !fits(info, tensor.shape()) {
        return Err(Status::invalid_argument(format!(
            "Input {alias} has shape {}; signature {signature_name} takes {}",
            crate::tensor::shape_text(tensor.shape()),
            declared_shape(info)
        )));
    }
    Ok(())
}

#[cfg(test)]
pub mod tests {
    use prost::Message;

    use super::*;
    use crate::protos::tensorflow as pb;
    use crate::tensor::Buffer;

    /// Signatures as `(name, [(alias, type, sizes)] in, [...] out)`.
    pub type Spec<'s> =
        (&'s str, &'s [(&'s str, DType, &'s [i64])], &'s [(&'s str, DType, &'s [i64])]);

    pub fn signature_def_map(specs: &[Spec]) -> Bytes {
        let info = |dtype: DType, sizes: &[i64]| pb::TensorInfo {
            dtype: dtype.number(),
            tensor_shape: Some(pb::TensorShapeProto {
                dim: sizes
                    .iter()
                    .map(|&size| pb::tensor_shape_proto::Dim { size, name: String::new() })
                    .collect(),
                unknown_rank: false,
            }),
            ..pb::TensorInfo::default()
        };
        let infos = |infos: &[(&str, DType, &[i64])]| {
            infos
                .iter()
                .map(|(alias, dtype, sizes)| ((*alias).to_owned(), info(*dtype, sizes)))
                .collect()
        };
        let signature_def = specs
            .iter()
            .map(|(name, inputs, outputs)| {
                let def = pb::SignatureDef {
                    inputs: infos(inputs),
                    outputs: infos(outputs),
                    ..pb::SignatureDef::default()
                };
                ((*name).to_owned(), def)
            })
            .collect();
        pb::serving::SignatureDefMap { signature_def }.encode_to_vec().into()
    }

    fn floats(shape: &[i64]) -> Tensor {
        let size = crate::tensor::num_elements(shape).unwrap() * 4;
        Tensor::dense(DType::Float, shape.to_vec(), Buffer::zeroed(size))
    }

    fn aliases() -> Aliases {
        let x: &[(&str, DType, &[i64])] = &[("x", DType::Float, &[-1, 2])];
        let y: &[(&str, DType, &[i64])] = &[("x", DType::Float, &[-1]), ("y", DType::Float, &[])];
        Aliases::new(signature_def_map(&[("a", x, y), ("b", x, y)])).unwrap()
    }

    fn input(aliases: &Aliases, signature: &str) -> String {
        aliases.signatures()[signature].inputs["x"].name.clone()
    }

    fn output(aliases: &Aliases, signature: &str, alias: &str) -> String {
        aliases.signatures()[signature].outputs[alias].name.clone()
    }

    #[test]
    fn a_run_of_several_signatures_becomes_a_call_of_each() {
        let aliases = aliases();
        let feeds = ["a", "b"].map(|name| (input(&aliases, name), floats(&[1, 2])));
        let fetches =
            [("b", "y"), ("a", "x"), ("b", "x")].map(|(name, alias)| output(&aliases, name, alias));

        let calls = aliases.calls(&feeds, &fetches).unwrap();

        let seen: Vec<_> = calls
            .iter()
            .map(|call| (call.signature_name, call.inputs.len(), call.outputs.clone()))
            .collect();
        assert_eq!(seen, [("b", 1, vec![(0, "y"), (2, "x")]), ("a", 1, vec![(1, "x")])]);
    }

    #[test]
    fn what_a_signature_does_not_take_is_refused() {
        let aliases = aliases();
        let strings = || Tensor::strings(vec![1], ["s"].into_iter().collect());
        for (tensor, expected) in [
            (strings(), "Expects arg[0] to be float but string is provided"),
            (floats(&[2]), "Input x has shape [2]; signature a takes [?,2]"),
            (floats(&[1, 3]), "Input x has shape [1,3]; signature a takes [?,2]"),
        ] {
            let feeds = [(input(&aliases, "a"), tensor)];
            let refused = aliases.calls(&feeds, &[output(&aliases, "a", "y")]).err().unwrap();
            assert_eq!(refused, Status::invalid_argument(expected));
        }
    }
}
