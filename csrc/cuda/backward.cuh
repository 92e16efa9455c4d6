// Backward pass: a block keeps keys, values and their gradients of a whole head, in category order, and visits the
// queries in tiles of 32. Eight warps are four groups of keys times two halves:
//
// 1. Scores and dP; P and dS go to shared memory: a group has every fourth 16 keys, a half 16 of the queries.
// 2. dk += dS^T q and dv += P^T dout, in registers: the same keys, a half of the channels.
// 3. dq = dS k of the tile, complete: 16 queries and 16 channels for every warp.
//
// With the policy's gradient step 1 visits blocked pairs as well, for the sums of dM.
#pragma once

#include "backward_steps.cuh"

namespace grm::cuda {

// One block for every head.
template <class Element, int D, bool kPolicy>
GRM_KERNEL(kThreads, 1) backward_kernel(const BackwardProblem problem) {
  using Layout = BackwardLayout<D>;
  constexpr int kHalf = D / 2;
  const ForwardProblem& f = problem.forward;
  const int heads = static_cast<int>(f.heads), image = block_index() / heads, head = block_index() % heads;
  const int all_tokens = static_cast<int>(f.tokens);
  const Shared memory = shared_memory();
  const Order order = sort_tokens(f.categories + int64_t{image} * all_tokens, all_tokens, memory + Layout::order);
  // Of padding nothing but zeros.
  const Tokens* const all_grads[] = {&problem.grad_q, &problem.grad_k, &problem.grad_v};
  for (const Tokens* grad : all_grads)
    clear_rows<D>(head_of(*grad, image, head), order, order.tokens(), all_tokens, kThreads);
  if (kPolicy)
    for (int i = 2 * order.tokens() + thread_index(); i < 2 * all_tokens; i += kThreads) {
      const int64_t row = block_index() * int64_t{all_tokens} + order.token(i / 2);
      global_store(problem.policy_partials + 2 * row + i % 2, 0.0f);
    }

  const int rows = (order.tokens() + kChunk - 1) / kChunk * kChunk;  // of keys

  const int shared_head = head / static_cast<int>(f.group);
  const Tile<D> keys = {memory + Layout::keys}, values = {memory + Layout::values};
  gather_rows<D>({keys, values}, 0, {head_of(f.k, image, shared_head), head_of(f.v, image, shared_head)}, order, 0,
                 rows, kThreads);
  const auto queries_of = [&](int i) -> Tile<D> { return {memory + Layout::queries + i % 2 * Layout::kTileBytes}; };
  const auto grads_of = [&](int i) -> Tile<D> { return {memory + Layout::grads + i % 2 * Layout::kTileBytes}; };
  const auto gather_tile = [&](int i) {
    // One after the other: both in a loop take registers that 9.0 has not left.
    gather_rows<D>({queries_of(i)}, 0, {head_of(f.q, image, head)}, order, i * kQueries, kQueries, kThreads);
    gather_rows<D>({grads_of(i)}, 0, {head_of(problem.grad_out, image, head)}, order, i * kQueries, kQueries, kThreads);
    copy_commit();
  };
  if (order.tokens() > 0) gather_tile(0);
  compute_delta<Element, D>(problem, order, image, head, memory + Layout::ranks,
                            (order.tokens() + kQueries - 1) / kQueries * kQueries);
  if (kPolicy)
    for (int i = thread_index(); i < 4 * Layout::kRows; i += kThreads)
      shared_store(memory + Layout::key_sums + 4 * i, 0.0f);

  const int lane = lane_index(), g = lane / 4, t = lane % 4;
  const int group = warp_index() % kGroups, half = warp_index() / kGroups;
  const int sixteenth = group;  // which 16 channels, in step 3
  const float scale = f.scale * kLog2E;
  const Shared p = memory + Layout::p, ds = memory + Layout::ds;
  const Shared key_sums = memory + Layout::key_sums + half * 8 * Layout::kRows;
  float grad_k[kGroupChunks][kHalf / 8][4] = {}, grad_v[kGroupChunks][kHalf / 8][4] = {};

  GRM_NO_UNROLL for (int i = 0; i * kQueries < order.tokens(); ++i) {
    const int first = i * kQueries, tokens = order.tokens();
    const Range block = {first, first + kQueries < tokens ? first + kQueries : tokens};
    const Range some = seen_by_some(order, block);
    // Whole chunks: 32 queries see all of these or, masked, some pairs of them.
    const int seen_begin = some.begin / kChunk, seen_end = (some.end + kChunk - 1) / kChunk;
    const Tile<D> queries = queries_of(i), grads = grads_of(i);
    copy_wait<0>();
    block_barrier();
    if (first + kQueries < tokens) gather_tile(i + 1);

    {  // Step 1.
      QueryRows<D> x;
      x.row = 16 * half;
      x.rank = first + x.row;
      GRM_UNROLL for (int k = 0; k < D / 16; ++k) load_a(x.q[k], queries, x.row, k);
      GRM_UNROLL for (int r = 0; r < 2; ++r) {
        const Shared rank = memory + Layout::ranks + 8 * (x.rank + g + 8 * r);
        x.lse[r] = shared_load<float>(rank);
        x.delta[r] = shared_load<float>(rank + 4);
        x.sum_t[r] = x.sum_s[r] = 0;
      }
      const Range all = seen_by_all(order, {x.rank, x.rank + 16});
      const int begin = kPolicy ? 0 : seen_begin, end = kPolicy ? (tokens + kChunk - 1) / kChunk : seen_end;
      const Shared offset = x.row * Layout::kStride;
      const Places<D> places = {keys, values, grads, p + offset, ds + offset, key_sums};
      GRM_NO_UNROLL for (int chunk = group; chunk < end; chunk += kGroups) {
        if (chunk < begin) continue;
        const int key = chunk * kChunk;
        grad_scores<Element, D, kPolicy>(x, places, order, key, scale, chunk >= seen_begin && chunk < seen_end,
                                         key < all.begin || key + kChunk > all.end);
      }
      if (kPolicy) {
        GRM_UNROLL for (int r = 0; r < 2; ++r) {
          const float sum_t = quad_sum(x.sum_t[r]), sum_s = quad_sum(x.sum_s[r]);
          const Shared part = memory + Layout::row_parts + 8 * (group * kQueries + x.row + g + 8 * r);
          if (t < 2) shared_store(part + 4 * t, t == 0 ? sum_t : sum_s);
        }
      }
    }
    block_barrier();

    if (kPolicy && thread_index() < 2 * kQueries) {
      float sum = 0;
      GRM_UNROLL for (int part = 0; part < kGroups; ++part)
          sum += shared_load<float>(memory + Layout::row_parts + 8 * part * kQueries + 4 * thread_index());
      shared_store(memory + Layout::ranks + 8 * first + 4 * thread_index(), sum);
    }

    // Step 2. The key is the row of dk and dv, so P and dS are transposed as they are read.
    GRM_UNROLL for (int k = 0; k < kQueries / 16; ++k) {
      uint32_t b_grads[kHalf / 16][4], b_queries[kHalf / 16][4];
      GRM_UNROLL for (int n = 0; n < kHalf / 16; ++n) {
        load_b_of_channels(b_grads[n], grads, 16 * k, half * (kHalf / 16) + n);
        load_b_of_channels(b_queries[n], queries, 16 * k, half * (kHalf / 16) + n);
      }
      GRM_UNROLL for (int c = 0; c < kGroupChunks; ++c) {
        const int chunk = c * kGroups + group;
        if (chunk < seen_begin || chunk >= seen_end) continue;
        const int row = 16 * k + row_by_pieces();
        const Shared from = row * Layout::kStride + 2 * kChunk * chunk + piece_by_pieces() * kPiece;
        uint32_t a[4];
        load_matrices_transposed(a, p + from);
        GRM_UNROLL for (int n = 0; n < kHalf / 16; ++n) {
          multiply<Element>(grad_v[c][2 * n], a, b_grads[n][0], b_grads[n][1]);
          multiply<Element>(grad_v[c][2 * n + 1], a, b_grads[n][2], b_grads[n][3]);
        }
        load_matrices_transposed(a, ds + from);
        GRM_UNROLL for (int n = 0; n < kHalf / 16; ++n) {
          multiply<Element>(grad_k[c][2 * n], a, b_queries[n][0], b_queries[n][1]);
          multiply<Element>(grad_k[c][2 * n + 1], a, b_queries[n][2], b_queries[n][3]);
        }
      }
    }

    // Step 3.
    if (sixteenth < D / 16) {
      float grad[2][4] = {};
      const int row = 16 * half + row_by_rows();
      GRM_NO_UNROLL for (int chunk = seen_begin; chunk < seen_end; ++chunk) {
        uint32_t a[4], b[4];
        load_matrices(a, ds + row * Layout::kStride + 2 * kChunk * chunk + piece_by_rows() * kPiece);
        load_b_of_channels(b, keys, kChunk * chunk, sixteenth);
        multiply<Element>(grad[0], a, b[0], b[1]);
        multiply<Element>(grad[1], a, b[2], b[3]);
      }
      const Head grad_q = head_of(problem.grad_q, image, head);
      store_fragments<Element>(grad, f.scale, 16 * sixteenth, [&](int r) -> char* {
        const int rank = first + 16 * half + r;
        return rank < order.tokens() ? grad_q.row(order.token(rank)) : nullptr;
      });
    }
  }

  const int tokens = order.tokens();
  const Head key_head = head_of(problem.grad_k, image, head), value_head = head_of(problem.grad_v, image, head);
  GRM_UNROLL for (int c = 0; c < kGroupChunks; ++c) {
    const int key = (c * kGroups + group) * kChunk;
    if (key >= tokens) continue;
    const auto row_in = [&](const Head& target) {
      return [&](int r) -> char* { return key + r < tokens ? target.row(order.token(key + r)) : nullptr; };
    };
    store_fragments<Element>(grad_k[c], f.scale, half * kHalf, row_in(key_head));
    store_fragments<Element>(grad_v[c], 1.0f, half * kHalf, row_in(value_head));
  }

  if (!kPolicy) return;
  float* const partials = problem.policy_partials + 2 * (block_index() * int64_t{all_tokens});
  block_barrier();
  // dp_i is less the sum over S, ds_i less that over T.
  GRM_NO_UNROLL for (int i = thread_index(); i < 2 * tokens; i += kThreads) {
    const int rank = i / 2, which = i % 2;
    const Shared keys_of_half = memory + Layout::key_sums + 4 * i;
    const float sum = shared_load<float>(memory + Layout::ranks + 4 * i) + shared_load<float>(keys_of_half) +
                      shared_load<float>(keys_of_half + 8 * Layout::kRows);
    global_store(partials + 2 * order.token(rank) + 1 - which, -sum);
  }
}

// grad_policy (B, N, 3) is the sum of the partials of all heads in their order, and 0 for A. A thread for every token.
GRM_KERNEL(kPolicyThreads, 1) policy_kernel(const float* partials, float* grad_policy, int batch, int heads,
                                            int tokens) {
  const int index = block_index() * kPolicyThreads + thread_index();
  if (index >= batch * tokens) return;
  const int image = index / tokens, token = index % tokens;
  float p = 0, s = 0;
  for (int head = 0; head < heads; ++head) {
    const float* partial = partials + 2 * ((int64_t{image} * heads + head) * tokens + token);
    p += global_load<float>(partial);
    s += global_load<float>(partial + 1);
  }
  float* const target = grad_policy + 3 * int64_t{index};
  global_store(target, p);
  global_store(target + 1, s);
  global_store(target + 2, 0.0f);
}

}  // namespace grm::cuda
