//! Servables written in Python: called with the GIL held, on the engine's compute threads.

use std::collections::HashMap;

use bytes::Bytes;
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use crate::servable::{RunOptions, Servable, Signatures};
use crate::status::{Code, Result, Status};
use crate::tensor::{num_elements, Buffer, DType, Data, Strings, Tensor};

/// A Python object that answers runs; see `PythonServable` in `_engine.pyi`.
pub struct PythonServable {
    object: Py<PyAny>,
    signatures: Signatures,
    signature_def_map: Bytes,
    /// Which signature and which alias a tensor name of a run stands for. Names are made when the
    /// servable is, so that a run can tell its signature.
    names: HashMap<String, (String, String)>,
}

impl PythonServable {
    /// # Errors
    /// INVALID_ARGUMENT when the bytes are no `SignatureDefMap`.
    pub fn new(object: Py<PyAny>, signature_def_map: Bytes) -> Result<Self> {
        let mut signatures = crate::servable::signature_def::signatures(&signature_def_map)
            .ok_or_else(|| Status::invalid_argument("The signatures are no SignatureDefMap"))?;
        // Requests are run by tensor names; here these say signature and alias.
        let mut names = HashMap::new();
        for (name, signature) in &mut signatures {
            let infos = signature.inputs.iter_mut().chain(signature.outputs.iter_mut());
            for (alias, info) in infos {
                info.name = format!("{name}\n{alias}");
                names.insert(info.name.clone(), (name.clone(), alias.clone()));
            }
        }
        Ok(Self { object, signatures, signature_def_map, names })
    }

    fn alias(&self, name: &str) -> Result<&(String, String)> {
        self.names.get(name).ok_or_else(|| Status::internal("A run names an unknown tensor"))
    }

    fn call(
        &self,
        py: Python<'_>,
        feeds: Vec<(String, Tensor)>,
        fetches: &[String],
    ) -> PyResult<Result<Vec<Tensor>>> {
        let inputs = PyDict::new(py);
        for (name, tensor) in feeds {
            let (_, alias) = match self.alias(&name) {
                Ok(found) => found,
                Err(status) => return Ok(Err(status)),
            };
            inputs.set_item(alias, to_python(py, tensor)?)?;
        }
        // MultiInference fetches from several signatures at once: each is called by itself.
        let mut calls: Vec<(&str, Vec<(usize, &str)>)> = Vec::new();
        for (at, name) in fetches.iter().enumerate() {
            let (signature, alias) = match self.alias(name) {
                Ok(found) => found,
                Err(status) => return Ok(Err(status)),
            };
            match calls.iter_mut().find(|(called, _)| called == signature) {
                Some((_, outputs)) => outputs.push((at, alias)),
                None => calls.push((signature, vec![(at, alias)])),
            }
        }
        let mut results: Vec<Option<Tensor>> = fetches.iter().map(|_| None).collect();
        for (signature, outputs) in calls {
            let aliases: Vec<&str> = outputs.iter().map(|(_, alias)| *alias).collect();
            let answer = self.object.call_method1(py, "run", (signature, &inputs, aliases))?;
            let answer: Vec<Bound<'_, PyTuple>> = answer.extract(py)?;
            if answer.len() != outputs.len() {
                return Ok(Err(Status::internal(format!(
                    "The servable returned {} outputs; {} were asked for",
                    answer.len(),
                    outputs.len()
                ))));
            }
            for ((at, alias), tensor) in outputs.into_iter().zip(answer) {
                match from_python(&tensor)? {
                    Ok(tensor) => results[at] = Some(tensor),
                    Err(what) => {
                        return Ok(Err(Status::internal(format!(
                            "The servable's output {alias} is no tensor: {what}"
                        ))))
                    }
                }
            }
        }
        Ok(results.into_iter().collect::<Option<_>>().ok_or_else(|| Status::internal("No output")))
    }
}

impl Servable for PythonServable {
    fn signatures(&self) -> &Signatures {
        &self.signatures
    }

    fn signature_def_map(&self) -> &Bytes {
        &self.signature_def_map
    }

    fn run(
        &self,
        feeds: Vec<(String, Tensor)>,
        fetches: &[String],
        _options: RunOptions,
    ) -> Result<Vec<Tensor>> {
        Python::attach(|py| {
            self.call(py, feeds, fetches).unwrap_or_else(|error| Err(status_of(py, &error)))
        })
    }
}

/// The status of an exception: its own code and text when it has them, and never a trace.
fn status_of(py: Python<'_>, error: &PyErr) -> Status {
    let value = error.value(py);
    let code = value.getattr("code").and_then(|code| code.extract::<i32>());
    let message = value.getattr("message").and_then(|message| message.extract::<String>());
    match (code, message) {
        (Ok(code), Ok(message)) => Status::new(Code::from_number(code), message),
        _ => Status::internal("The servable failed"),
    }
}

/// (number of the type, shape, data): a buffer for dense elements, bytes objects for strings.
fn to_python(py: Python<'_>, tensor: Tensor) -> PyResult<Bound<'_, PyTuple>> {
    let dtype = tensor.dtype().number();
    let shape = PyTuple::new(py, tensor.shape())?;
    let data = match tensor.data() {
        Data::Dense(buffer) => PyBytes::new(py, buffer.as_slice()).into_any(),
        Data::Strings(strings) => {
            PyList::new(py, strings.iter().map(|string| PyBytes::new(py, string)))
                .map(Bound::into_any)?
        }
    };
    (dtype, shape, data).into_pyobject(py)
}

fn from_python(tensor: &Bound<'_, PyTuple>) -> PyResult<std::result::Result<Tensor, String>> {
    let (dtype, shape, data): (i32, Vec<i64>, Bound<'_, PyAny>) = tensor.extract()?;
    let Some(dtype) = DType::from_number(dtype) else {
        return Ok(Err(format!("unknown type {dtype}")));
    };
    let Some(elements) = num_elements(&shape) else {
        return Ok(Err(format!("impossible shape {shape:?}")));
    };
    let Some(size) = dtype.size() else {
        let strings: Vec<Vec<u8>> = data.extract()?;
        if strings.len() != elements {
            return Ok(Err(format!("{} strings for shape {shape:?}", strings.len())));
        }
        return Ok(Ok(Tensor::strings(shape, strings.into_iter().collect::<Strings>())));
    };
    let source = PyBuffer::<u8>::get(&data)?;
    if source.len_bytes() != elements * size {
        return Ok(Err(format!("{} bytes for shape {shape:?}", source.len_bytes())));
    }
    let mut buffer = Buffer::zeroed(source.len_bytes());
    source.copy_to_slice(data.py(), buffer.as_mut_slice())?;
    Ok(Ok(Tensor::dense(dtype, shape, buffer)))
}
