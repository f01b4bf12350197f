/* Arrays of any form, as another framework may hold them: a transposed view, every second column, a row that is repeated
 * without being there twice, halves, and gradients that still carry a loss scale. Ten steps of each.
 *
 *   arrays
 */
#include <ikkuna/probe.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { ROWS = 4, COLUMNS = 6 };

/* bfloat16 by cutting a float: enough for numbers of few digits. */
static uint16_t brain(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return (uint16_t)(bits >> 16);
}

int main(void) {
  ikkuna_session* s = ikkuna_open(&(ikkuna_options){.size = sizeof(ikkuna_options), .run = "arrays", .budget = -1});
  const uint16_t root = ikkuna_root(s, "net");
  const char* const names[] = {"transposed", "strided", "expanded", "halves", "scaled"};
  enum { FORMS = sizeof names / sizeof *names };
  uint32_t modules[FORMS];
  for (int i = 0; i < FORMS; ++i) modules[i] = ikkuna_module(s, root, names[i], "View", 0);

  for (uint64_t i = 0; i < 10; ++i) {
    float matrix[ROWS][COLUMNS];
    uint16_t halves[ROWS][COLUMNS];
    for (int r = 0; r < ROWS; ++r) {
      for (int c = 0; c < COLUMNS; ++c) {
        matrix[r][c] = (float)((int)i + r * COLUMNS + c);
        halves[r][c] = brain(matrix[r][c]);
      }
    }
    const int64_t turned[] = {COLUMNS, ROWS}, turned_strides[] = {1, COLUMNS};
    const int64_t half_wide[] = {ROWS, COLUMNS / 2}, half_wide_strides[] = {COLUMNS, 2};
    const int64_t repeated[] = {100, COLUMNS}, repeated_strides[] = {0, 1};
    const int64_t whole[] = {ROWS, COLUMNS};
    const ikkuna_array arrays[FORMS] = {
        {.size = sizeof(ikkuna_array), .data = matrix, .dtype = IKKUNA_F32, .ndim = 2,
         .sizes = turned, .strides = turned_strides},
        {.size = sizeof(ikkuna_array), .data = matrix, .dtype = IKKUNA_F32, .ndim = 2,
         .sizes = half_wide, .strides = half_wide_strides},
        {.size = sizeof(ikkuna_array), .data = matrix, .dtype = IKKUNA_F32, .ndim = 2,
         .sizes = repeated, .strides = repeated_strides},
        {.size = sizeof(ikkuna_array), .data = halves, .dtype = IKKUNA_BF16, .ndim = 2,
         .sizes = whole},
        {.size = sizeof(ikkuna_array), .data = matrix, .dtype = IKKUNA_F32, .ndim = 2,
         .sizes = whole, .scale = 1.0 / 1024},
    };
    ikkuna_step* step = ikkuna_step_begin(s, root, IKKUNA_TAG_DEFAULT, i, 0);
    ikkuna_pass* pass = ikkuna_pass_begin(step);
    for (int k = 0; k < FORMS; ++k) {
      if (ikkuna_pass_array(pass, IKKUNA_ACTIVATIONS, modules[k], 0, 0, 0, &arrays[k]) < 0) {
        fprintf(stderr, "%s: %s\n", names[k], ikkuna_error(s));
      }
    }
    ikkuna_pass_end(pass);
    ikkuna_step_end(step, 0);
  }
  ikkuna_close(s);
  puts("done");
  return 0;
}
