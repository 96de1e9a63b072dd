//! What stands in for pretrained networks in a program that was built without them.

use super::PretrainedConfig;
use crate::EncodeError;
use image::RgbImage;
use sommelier_core::FitContext;
use std::convert::Infallible;

pub(crate) struct Model(Infallible);

impl Model {
    pub fn open(_: &PretrainedConfig) -> Result<Model, String> {
        Err("this program was built without pretrained networks; build it with --features pretrained".into())
    }

    pub fn fetch(config: &PretrainedConfig, _: &FitContext) -> Result<(), EncodeError> {
        Model::open(config).map(|_| ()).map_err(EncodeError::Input)
    }

    pub fn dim(&self) -> usize {
        match self.0 {}
    }

    pub fn identity(&self) -> &str {
        match self.0 {}
    }

    pub fn what(&self) -> &str {
        match self.0 {}
    }

    pub fn reads(&self, _: bool) -> Result<(), String> {
        match self.0 {}
    }

    pub fn tokens(&self, _: &str) -> Result<Option<Vec<u32>>, String> {
        match self.0 {}
    }

    pub fn of_tokens(&self, _: &[&[u32]]) -> Result<Vec<Vec<f32>>, String> {
        match self.0 {}
    }

    pub fn of_picture(&self, _: &RgbImage) -> Result<Vec<f32>, String> {
        match self.0 {}
    }
}
