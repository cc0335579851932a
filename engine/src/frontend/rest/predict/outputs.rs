//! The document that answers Predict (specification 2.8).

use super::Format;
use crate::memory;
use crate::status::{Result, Status};
use crate::tensor::json::encode::{new_line, Layout, Writer};
use crate::tensor::json::text::write_string;
use crate::tensor::Tensor;

/// The body of an answer.
///
/// # Errors
/// INVALID_ARGUMENT for tensors that the format or JSON has no place for; RESOURCE_EXHAUSTED when
/// there is no memory for it.
pub fn body(format: Format, outputs: &[(&str, &Tensor)]) -> Result<Vec<u8>> {
    if outputs.is_empty() {
        return Err(Status::invalid_argument("Cannot convert empty tensor map to JSON"));
    }
    let elements: usize = outputs.iter().map(|(_, tensor)| tensor.num_elements()).sum();
    let mut out = Vec::new();
    memory::room(&mut out, 64 + elements * 12)?;
    match format {
        Format::Row => write_rows(&mut out, outputs)?,
        Format::Column => write_columns(&mut out, outputs)?,
    }
    out.extend_from_slice(b"\n}");
    Ok(out)
}

/// Strings of an output whose alias ends so are bytes.
const BYTES_SUFFIX: &str = "_bytes";

fn write_rows(out: &mut Vec<u8>, outputs: &[(&str, &Tensor)]) -> Result<()> {
    let mut batch = None;
    for (alias, tensor) in outputs {
        let Some(&size) = tensor.shape().first() else {
            return Err(Status::invalid_argument(format!(
                "Tensor name: {alias} has no shape information "
            )));
        };
        match batch {
            Some(batch) if batch != size => {
                return Err(Status::invalid_argument(format!(
                    "Tensor name: {alias} has inconsistent batch size: {size} expecting: {batch}"
                )));
            }
            _ => batch = Some(size),
        }
    }
    let writers = outputs
        .iter()
        .map(|(alias, tensor)| {
            let writer = Writer::new(tensor, Layout::OneLine, alias.ends_with(BYTES_SUFFIX))?;
            Ok((*alias, writer))
        })
        .collect::<Result<Vec<_>>>()?;
    let batch = usize::try_from(batch.unwrap_or_default()).unwrap_or_default();
    out.extend_from_slice(b"{\n    \"predictions\": [");
    for index in 0..batch {
        if let [(_, writer)] = &*writers {
            if index > 0 {
                out.extend_from_slice(b", ");
            }
            writer.write_row(out, index, 2);
            continue;
        }
        if index > 0 {
            out.push(b',');
        }
        new_line(out, 2);
        write_object(out, 2, &writers, |out, writer| writer.write_row(out, index, 3));
    }
    if batch > 0 {
        new_line(out, 1);
    }
    out.push(b']');
    Ok(())
}

fn write_columns(out: &mut Vec<u8>, outputs: &[(&str, &Tensor)]) -> Result<()> {
    let writers = outputs
        .iter()
        .map(|(alias, tensor)| {
            let writer = Writer::new(tensor, Layout::Lines, alias.ends_with(BYTES_SUFFIX))?;
            Ok((*alias, writer))
        })
        .collect::<Result<Vec<_>>>()?;
    out.extend_from_slice(b"{\n    \"outputs\": ");
    if let [(_, writer)] = &*writers {
        writer.write(out, 1);
    } else {
        write_object(out, 1, &writers, |out, writer| writer.write(out, 2));
    }
    Ok(())
}

fn write_object<'t>(
    out: &mut Vec<u8>,
    level: usize,
    members: &[(&str, Writer<'t>)],
    write: impl Fn(&mut Vec<u8>, &Writer<'t>),
) {
    out.push(b'{');
    for (at, (alias, writer)) in members.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        new_line(out, level + 1);
        write_string(out, alias.as_bytes());
        out.extend_from_slice(b": ");
        write(out, writer);
    }
    new_line(out, level);
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{Buffer, DType};

    fn floats(shape: &[i64], values: &[f32]) -> Tensor {
        let mut buffer = Buffer::zeroed(size_of_val(values));
        buffer.elements_mut().copy_from_slice(values);
        Tensor::dense(DType::Float, shape.to_vec(), buffer)
    }

    fn answer(format: Format, outputs: &[(&str, &Tensor)]) -> String {
        match body(format, outputs) {
            Ok(body) => String::from_utf8(body).unwrap(),
            Err(status) => status.to_string(),
        }
    }

    #[test]
    fn answers_are_laid_out_as_recorded() {
        let vector = floats(&[3], &[2.5, 3.0, 4.5]);
        let matrix = floats(&[1, 2], &[1.0, 2.0]);
        let empty = floats(&[0], &[]);
        let scalar = floats(&[], &[2.0]);
        let bytes = Tensor::strings(vec![1, 2], ["a", "b"].into_iter().collect());
        let text = Tensor::strings(vec![1], ["a\n"].into_iter().collect());
        use Format::{Column, Row};
        for (format, outputs, expected) in [
            (Row, &[("y", &vector)][..], "{\n    \"predictions\": [2.5, 3.0, 4.5\n    ]\n}"),
            (Row, &[("y", &empty)], "{\n    \"predictions\": []\n}"),
            (Row, &[("y", &matrix)], "{\n    \"predictions\": [[1.0, 2.0]\n    ]\n}"),
            (Row, &[("y", &text)], "{\n    \"predictions\": [\"a\\n\"\n    ]\n}"),
            (
                Row,
                &[("y_bytes", &bytes)],
                "{\n    \"predictions\": [[{\n                \"b64\": \"YQ==\"\n            }, {\n\
                 \x20               \"b64\": \"Yg==\"\n            }]\n    ]\n}",
            ),
            (
                Row,
                &[("a", &matrix), ("b", &text)],
                "{\n    \"predictions\": [\n        {\n            \"a\": [1.0, 2.0],\n            \
                 \"b\": \"a\\n\"\n        }\n    ]\n}",
            ),
            (Column, &[("y", &scalar)], "{\n    \"outputs\": 2.0\n}"),
            (Column, &[("y", &empty)], "{\n    \"outputs\": []\n}"),
            (
                Column,
                &[("y", &matrix)],
                "{\n    \"outputs\": [\n        [\n            1.0,\n            2.0\n        ]\n    \
                 ]\n}",
            ),
            (
                Column,
                &[("a", &scalar), ("b", &scalar)],
                "{\n    \"outputs\": {\n        \"a\": 2.0,\n        \"b\": 2.0\n    }\n}",
            ),
            (
                Row,
                &[("y", &scalar)],
                "INVALID_ARGUMENT: Tensor name: y has no shape information ",
            ),
            (
                Row,
                &[("a", &vector), ("b", &matrix)],
                "INVALID_ARGUMENT: Tensor name: b has inconsistent batch size: 1 expecting: 3",
            ),
            (Row, &[], "INVALID_ARGUMENT: Cannot convert empty tensor map to JSON"),
        ] {
            assert_eq!(answer(format, outputs), expected);
        }
    }
}
