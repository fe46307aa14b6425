"""Which µm/px are plausible, finest and coarsest, by the question that is asked; both ends are.

No light microscope resolves 0.2 µm, so that finer pixels than a tenth of that are a mistake of a unit or a comma.
"""

# What a file or a manifest may say of a slide: from super-resolution to a macro photograph of the glass. A 1x objective
# gives about 10, and 72 dots an inch, which programs write that know nothing better, 353.
SLIDE_MPP = (0.01, 100.0)

# What is said of patch images, which don't say it themselves: in coarser pixels a nucleus is a dot of two.
PATCH_MPP = (0.05, 5.0)

# Patches whose nuclei are labelled or classified: coarser, a class is not seen.
LABELLED_MPP = (0.05, 2.0)

# Where nuclei are looked for: at 1 µm/px a lymphocyte is 7 px wide; coarser, nuclei are no longer told apart.
NUCLEI_MPP = (0.02, 1.0)
