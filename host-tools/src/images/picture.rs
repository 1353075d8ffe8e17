//! Decoding of JPEG and PNG files.

use std::{fmt::Display, io::Cursor};

use anyhow::{Context, Result, anyhow, bail, ensure};
use png::{ColorType, Transformations};
use zune_jpeg::{
    JpegDecoder,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

/// Pixels that any file may have,
const FREE_PIXELS: usize = 4 << 20;
/// and for each of its bytes: a photograph has less than ten. A few hostile bytes must not fill the memory.
const PIXELS_PER_BYTE: usize = 64;

const JPEG: &[u8] = b"\xff\xd8\xff";
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// The channels of a picture's pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Brightness; colours are weighted as Pillow does (ITU-R 601-2).
    Grey,
    /// Red, green, blue.
    Rgb,
    /// Red, green, blue, alpha: 255 in pictures without one.
    Rgba,
}

impl Colour {
    /// The colours of a network with this many input channels.
    ///
    /// # Errors
    /// No picture has as many.
    pub fn of_channels(channels: usize) -> Result<Self> {
        match channels {
            1 => Ok(Self::Grey),
            3 => Ok(Self::Rgb),
            4 => Ok(Self::Rgba),
            _ => bail!("the network takes {channels} channels, pictures have 1, 3 or 4"),
        }
    }

    /// Number of channels.
    pub const fn channels(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::Rgb => 3,
            Self::Rgba => 4,
        }
    }

    /// Appends one pixel, given with its alpha.
    fn push(self, [red, green, blue, alpha]: [u8; 4], samples: &mut Vec<u8>) {
        match self {
            // Equal channels stay as they are: the weights' sum is 1.
            Self::Grey => {
                let weighted = [(red, 19595), (green, 38470), (blue, 7471)].map(|(value, w)| u32::from(value) * w);
                samples.push(((weighted.iter().sum::<u32>() + (1 << 15)) >> 16) as u8);
            }
            Self::Rgb => samples.extend([red, green, blue]),
            Self::Rgba => samples.extend([red, green, blue, alpha]),
        }
    }
}

/// The pixels of one picture as stored: an orientation in its EXIF data is not applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// What the samples are.
    pub colour: Colour,
    /// The channels of each pixel, row by row.
    pub samples: Vec<u8>,
}

impl Picture {
    /// Decodes a file, recognised by its first bytes, to `colour`.
    ///
    /// # Errors
    /// Neither JPEG nor PNG, damaged or truncated, or too large.
    pub fn decode(file: &[u8], colour: Colour) -> Result<Self> {
        if file.starts_with(JPEG) {
            Self::decode_jpeg(file, colour).context("this JPEG cannot be decoded")
        } else if file.starts_with(PNG) {
            Self::decode_png(file, colour).context("this PNG cannot be decoded")
        } else {
            bail!("neither JPEG nor PNG")
        }
    }

    fn decode_jpeg(file: &[u8], colour: Colour) -> Result<Self> {
        // Otherwise the missing part of a truncated file would be grey.
        let options = DecoderOptions::default()
            .set_strict_mode(true)
            .set_max_width(usize::from(u16::MAX))
            .set_max_height(usize::from(u16::MAX))
            .jpeg_set_out_colorspace(ColorSpace::RGB);
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
        decoder.decode_headers().map_err(one_line)?;
        let (width, height) = decoder.dimensions().context("it has no size")?;
        check_size(width, height, file)?;
        Self::new([width, height], colour, decoder.decode().map_err(one_line)?, |rgb: [u8; 3]| {
            [rgb[0], rgb[1], rgb[2], u8::MAX]
        })
    }

    fn decode_png(file: &[u8], colour: Colour) -> Result<Self> {
        let mut decoder = png::Decoder::new(Cursor::new(file));
        decoder.set_transformations(Transformations::normalize_to_color8());
        let mut reader = decoder.read_info()?;
        check_size(reader.info().width as usize, reader.info().height as usize, file)?;
        let mut samples = vec![0; reader.output_buffer_size().context("it is too large")?];
        let frame = reader.next_frame(&mut samples)?;
        samples.truncate(frame.buffer_size());
        let size = [frame.width as usize, frame.height as usize];
        match frame.color_type {
            ColorType::Rgb => Self::new(size, colour, samples, |rgb: [u8; 3]| [rgb[0], rgb[1], rgb[2], u8::MAX]),
            ColorType::Rgba => Self::new(size, colour, samples, |rgba: [u8; 4]| rgba),
            ColorType::Grayscale => Self::new(size, colour, samples, |[grey]| [grey, grey, grey, u8::MAX]),
            ColorType::GrayscaleAlpha => Self::new(size, colour, samples, |[grey, alpha]| [grey, grey, grey, alpha]),
            ColorType::Indexed => bail!("its palette is missing"),
        }
    }

    /// A picture of these stored pixels of `N` channels each, which `rgba` completes.
    fn new<const N: usize>(
        [width, height]: [usize; 2],
        colour: Colour,
        stored: Vec<u8>,
        rgba: impl Fn([u8; N]) -> [u8; 4],
    ) -> Result<Self> {
        ensure!(stored.len() == N * width * height, "it does not have as many pixels as its header says");
        if N == colour.channels() {
            return Ok(Self { width, height, colour, samples: stored });
        }
        let mut samples = Vec::with_capacity(colour.channels() * width * height);
        stored.as_chunks().0.iter().for_each(|&pixel| colour.push(rgba(pixel), &mut samples));
        Ok(Self { width, height, colour, samples })
    }
}

/// Some of the decoder's messages end in a line feed.
fn one_line(error: impl Display) -> anyhow::Error {
    anyhow!("{}", error.to_string().trim_end())
}

fn check_size(width: usize, height: usize, file: &[u8]) -> Result<()> {
    ensure!(width > 0 && height > 0, "it has no pixels");
    let most = FREE_PIXELS.max(file.len().saturating_mul(PIXELS_PER_BYTE));
    ensure!(
        width.checked_mul(height).is_some_and(|pixels| pixels <= most),
        "it says that it has {width}x{height} pixels, in {} bytes: more than {most} are not decoded",
        file.len()
    );
    Ok(())
}
