/* Where element `number` of a tensor of these dimensions lies in another, whose
   elements lie so many steps apart in each dimension. */
static int32_t offset(const struct dimensions *of, const int32_t *step, int32_t number)
{
    int32_t found = 0;

    for (int32_t d = of->count - 1; d >= 0; d--) {
        found += number % of->size[d] * step[d];
        number /= of->size[d];
    }
    return found;
}
