//! SignatureDefs from the wire.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use crate::protos::tensorflow as pb;
use crate::servable::{Signature, Signatures, TensorInfo};

/// The signatures of a serialized `SignatureDefMap`, `None` when the bytes are none.
pub fn signatures(map: &Bytes) -> Option<Signatures> {
    let map = crate::protos::tensorflow::serving::SignatureDefMap::decode(map.clone()).ok()?;
    Some(map.signature_def.into_iter().map(|(name, def)| (name, signature(def))).collect())
}

fn signature(def: pb::SignatureDef) -> Signature {
    let text = text_of(&def);
    let infos = |infos: BTreeMap<String, pb::TensorInfo>| {
        infos.into_iter().map(|(alias, info)| (alias, tensor_info(info))).collect()
    };
    Signature {
        inputs: infos(def.inputs),
        outputs: infos(def.outputs),
        method_name: def.method_name,
        defaults: def
            .defaults
            .into_iter()
            .map(|(alias, tensor)| (alias, tensor.encode_to_vec().into()))
            .collect(),
        text,
    }
}

fn tensor_info(info: pb::TensorInfo) -> TensorInfo {
    let name = match info.encoding {
        Some(pb::tensor_info::Encoding::Name(name)) => name,
        _ => String::new(),
    };
    let shape = info.tensor_shape.filter(|shape| !shape.unknown_rank);
    TensorInfo {
        name,
        dtype: info.dtype,
        shape: shape.map(|shape| shape.dim.iter().map(|dim| dim.size).collect()),
    }
}

/// The definition in the text format, on one line.
fn text_of(def: &pb::SignatureDef) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for (field, infos) in [("inputs", &def.inputs), ("outputs", &def.outputs)] {
        for (alias, info) in infos {
            let info = tensor_info(info.clone());
            let dtype = crate::tensor::dtype::dtype_name(info.dtype);
            let dims: String = match &info.shape {
                None => "unknown_rank: true ".to_owned(),
                Some(sizes) => {
                    sizes.iter().map(|size| format!("dim {{ size: {size} }} ")).collect()
                }
            };
            let _ = write!(
                text,
                "{field} {{ key: {alias:?} value {{ name: {:?} dtype: {dtype} \
                 tensor_shape {{ {dims}}} }} }} ",
                info.name
            );
        }
    }
    let _ = write!(text, "method_name: {:?}", def.method_name);
    text
}
