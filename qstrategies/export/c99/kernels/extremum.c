struct extremum {
    struct pair pair;
    int32_t largest;
};

static void extremum(const uint8_t *a, const uint8_t *b, uint8_t *y, const struct extremum *s)
{
    const struct pair *t = &s->pair;

    for (int32_t i = 0; i < t->elements; i++) {
        const uint8_t left = a[offset(&t->dimensions, t->a_step, i)];
        const uint8_t right = b[offset(&t->dimensions, t->b_step, i)];

        y[i] = (left > right) == (s->largest == 1) ? left : right;
    }
}
