// Rows of tokens: gathered through the category order into tiles in shared memory, read from there as fragments of
// matrix products, and moved between fragments and global memory.
#pragma once

#include "order.cuh"

namespace grm::cuda {

constexpr int kPiece = 16;  // bytes that are copied at a time; channels of 8 elements

// The rows of one head in global memory.
struct Head {
  char* data;
  int64_t row_bytes;

  GRM_DEVICE char* row(int token) const { return data + token * row_bytes; }
};

GRM_DEVICE Head head_of(const Tokens& t, int64_t image, int64_t head) {
  return {static_cast<char*>(t.data) + 2 * (image * t.batch_stride + head * t.head_stride), 2 * t.token_stride};
}

// A tile holds rows of D 16-bit channels without gaps. The pieces of a row are exchanged by the row's number, so that
// the same piece of eight consecutive rows lies in eight different groups of banks.
template <int D>
struct Tile {
  static constexpr int kPieces = D * 2 / kPiece;
  static constexpr int kRowsOfBanks = 8 / kPieces;  // rows that all banks hold together
  static_assert(kPieces == 4 || kPieces == 8, "D is 32 or 64");

  Shared data;

  GRM_DEVICE Shared piece(int row, int index) const {
    return data + row * (D * 2) + (index ^ row / kRowsOfBanks % kPieces) * kPiece;
  }
};

// Starts copying ranks [first, first + rows) of heads with the same tokens, as keys and values, to rows [row, row +
// rows) of a tile each, by all `threads` of the block; zeros where there is no such rank.
template <int D, int kHeads>
GRM_DEVICE void gather_rows(const Tile<D> (&tiles)[kHeads], int row, const Head (&heads)[kHeads], const Order& order,
                            int first, int rows, int threads) {
  constexpr int kPieces = Tile<D>::kPieces;
  const int tokens = order.tokens();
  GRM_UNROLL for (int i = thread_index(); i < rows * kPieces; i += threads) {
    const int r = i / kPieces, index = i % kPieces, rank = first + r;
    const bool exists = rank < tokens;
    const int token = exists ? order.token(rank) : 0;
    GRM_UNROLL for (int j = 0; j < kHeads; ++j)
        copy_async(tiles[j].piece(row + r, index), heads[j].row(token) + index * kPiece, exists);
  }
}

// Zeros to the rows of ranks [first, last) of a head, by all `threads` of the block.
template <int D>
GRM_DEVICE void clear_rows(const Head& head, const Order& order, int first, int last, int threads) {
  constexpr int kPieces = Tile<D>::kPieces;
  GRM_NO_UNROLL for (int i = thread_index(); i < (last - first) * kPieces; i += threads)
      global_store(head.row(order.token(first + i / kPieces)) + i % kPieces * kPiece, Words4{});
}

// Which row and which piece a lane names to load_matrices for 16 rows of two pieces. By rows: matrices 0 and 1 are the
// rows 0-7 and 8-15 of the first piece, 2 and 3 of the second. By pieces: matrices 0 and 1 are the two pieces of rows
// 0-7, 2 and 3 of the others.
GRM_DEVICE int row_by_rows() { return lane_index() % 16; }
GRM_DEVICE int piece_by_rows() { return lane_index() / 16; }
GRM_DEVICE int row_by_pieces() { return lane_index() % 8 + lane_index() / 16 * 8; }
GRM_DEVICE int piece_by_pieces() { return lane_index() / 8 % 2; }

// With a row of the tile as a row of `a` (16 rows from `row` on, 16 channels from 16 k on).
template <int D>
GRM_DEVICE void load_a(uint32_t (&a)[4], const Tile<D>& tile, int row, int k) {
  load_matrices(a, tile.piece(row + row_by_rows(), 2 * k + piece_by_rows()));
}

// With a row of the tile as a column of b: b[0], b[1] of rows [row, row + 8), b[2], b[3] of the next eight.
template <int D>
GRM_DEVICE void load_b_of_rows(uint32_t (&b)[4], const Tile<D>& tile, int row, int k) {
  load_matrices(b, tile.piece(row + row_by_pieces(), 2 * k + piece_by_pieces()));
}

// With a channel of the tile as a column of b, 16 rows as its depth: b[0], b[1] of channels [16 n, 16 n + 8), b[2],
// b[3] of the next eight.
template <int D>
GRM_DEVICE void load_b_of_channels(uint32_t (&b)[4], const Tile<D>& tile, int row, int n) {
  load_matrices_transposed(b, tile.piece(row + row_by_rows(), 2 * n + piece_by_rows()));
}

// ---- within the four lanes of a quad, which hold a row of a fragment ----

GRM_DEVICE float quad_sum(float x) {
  x += shuffle_xor(x, 1);
  return x + shuffle_xor(x, 2);
}

GRM_DEVICE float quad_maximum(float x) {
  x = maximum(x, shuffle_xor(x, 1));
  return maximum(x, shuffle_xor(x, 2));
}

// Lane t's w[i] becomes lane i's w[t]: four pieces of a row, a word of each in every lane, against one whole piece in
// every lane.
GRM_DEVICE void quad_transpose(uint32_t (&w)[4]) {
  GRM_UNROLL for (int bit = 1; bit <= 2; bit *= 2) {
    const bool upper = lane_index() & bit;
    GRM_UNROLL for (int i = 0; i < 4; ++i) {
      if (i & bit) continue;
      const uint32_t received = shuffle_xor(upper ? w[i] : w[i + bit], bit);
      if (upper)
        w[i] = received;
      else
        w[i + bit] = received;
    }
  }
}

// Writes four pieces that a quad holds in fragments, w[i] being this lane's word of piece i, 16 bytes by every lane.
// target(i) is where piece i goes; null if nowhere.
template <class Target>
GRM_DEVICE void store_pieces(uint32_t (&w)[4], const Target& target) {
  quad_transpose(w);
  if (char* address = target(lane_index() % 4)) global_store(address, Words4{{w[0], w[1], w[2], w[3]}});
}

}  // namespace grm::cuda
