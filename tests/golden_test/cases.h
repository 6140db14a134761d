// One function per kind of case: each builds what the case describes, hands its results to the pass and finishes it.
#pragma once

#include "case.h"

namespace megalodon::golden {

void run_timestep_norm(Pass& pass);
void run_sequence_norm(Pass& pass);
void run_rms_norm(Pass& pass);
void run_layer_norm(Pass& pass);
void run_cema(Pass& pass);
void run_rotary(Pass& pass);
void run_attention(Pass& pass);

void run_mega_attention(Pass& pass);
void run_ffn(Pass& pass);

void run_hippo(Pass& pass);
void run_s4d_init(Pass& pass);
void run_s4d_kernel(Pass& pass);
void run_nplr_kernel(Pass& pass);
void run_nplr_attunement(Pass& pass);
void run_s4_convolution(Pass& pass);
void run_s4_block(Pass& pass);
void run_s4d_layer(Pass& pass);
void run_s4d_states(Pass& pass);
void run_s4_classifier(Pass& pass);

void run_rotary_scaling(Pass& pass);
void run_rotary_pairs(Pass& pass);
void run_alibi(Pass& pass);
void run_llama_block(Pass& pass);
void run_llama_model(Pass& pass);
void run_mpt_block(Pass& pass);
void run_hub_model(Pass& pass);
void run_torch_stack(Pass& pass);

void run_moving_average(Pass& pass);
void run_moving_average_in_pieces(Pass& pass);
void run_mega_norm(Pass& pass);
void run_mega_ffn(Pass& pass);
void run_relative_bias(Pass& pass);
void run_score_function(Pass& pass);
void run_gated_attention(Pass& pass);
void run_gated_attention_in_pieces(Pass& pass);
void run_cross_attention(Pass& pass);
void run_mega_layer(Pass& pass);
void run_mega_model(Pass& pass);
void run_mega_classifier(Pass& pass);
void run_mega_encoder_decoder(Pass& pass);
void run_mega_optimizer(Pass& pass);

void run_model(Pass& pass);
void run_model_bf16(Pass& pass);
void run_long_inference(Pass& pass);
void run_generation(Pass& pass);
void run_training(Pass& pass);

}  // namespace megalodon::golden
